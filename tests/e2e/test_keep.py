"""`make demo KEEP=1`: the server stays up, and can be talked to and stopped as the demo says."""

import os
import re
import signal
import subprocess
import sys

import httpx
import psutil
import pytest
from chain import DEMO, Demo, chat

pytestmark = pytest.mark.full


def test_the_server_stays_until_it_is_stopped(demo: Demo) -> None:
    environment = os.environ | {"HONE_STORE": str(demo.store.root)}
    finished = subprocess.run(
        [sys.executable, str(DEMO), "--keep"], check=True, stderr=subprocess.PIPE, text=True, env=environment
    )
    pid = int(re.findall(r"kill (\d+)", finished.stderr)[0])
    url = re.findall(r"--base-url (http://\S+)/v1", finished.stderr)[0]
    try:
        assert httpx.get(f"{url}/ready").status_code == 200
        assert chat(url, "What is the licence of Hone?").returncode == 0
    finally:
        server = psutil.Process(pid)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) in (0, None)
