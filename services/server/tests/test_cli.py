"""The command as a user meets it, up to the moment when vLLM would be imported."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from hone_contract.artifact import Artifact
from hone_contract.store import Store

pytestmark = pytest.mark.chain

# Prints which heavy modules were imported, whatever way the process ends.
_WATCH = """
import atexit, sys
atexit.register(lambda: print("IMPORTED", [m for m in ("torch", "vllm", "transformers") if m in sys.modules]))
from hone_server.__main__ import main
main()
"""


def _serve(store: Store, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}
    command = [
        sys.executable,
        "-c",
        _WATCH,
        "--store",
        str(store.root),
        "--wait",
        "0",
        "--port",
        "0",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean | environment)


def _refused(finished: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that was told; asserts that nothing heavy was imported."""
    assert finished.returncode == code, finished.stderr
    assert finished.stdout == "IMPORTED []\n"
    assert "Traceback" not in finished.stderr
    told = [line for line in finished.stderr.splitlines() if not line.startswith("{")]
    assert len(told) == 1, told
    return told[0]


def test_one_changed_byte_is_refused_with_the_files_name(store: Store, published: Artifact) -> None:
    weights = published.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    line = _refused(_serve(store), 65)
    assert str(weights) in line
    assert "has changed since it was sealed" in line


def test_nothing_published_in_time_may_be_retried(store: Store) -> None:
    assert "hone-merger merge" in _refused(_serve(store), 75)


@pytest.mark.usefixtures("published")
def test_several_models_and_no_choice(store: Store) -> None:
    store.live("other").parent.mkdir()
    store.live("other").write_text("v1\n")
    assert "faq, other" in _refused(_serve(store), 78)


def test_another_machine_may_not_come_in_without_a_key(store: Store) -> None:
    line = _refused(_serve(store, "--host", "0.0.0.0"), 78)
    assert "HONE_API_KEY" in line
    assert "HONE_ALLOW_KEYLESS=1" in line


def test_a_key_that_cannot_be_read(store: Store) -> None:
    assert "cannot be read" in _refused(_serve(store, HONE_API_KEY_FILE="/nonexistent/key"), 78)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-such-option",),
        ("--port", "many"),
        ("--port", "70000"),
        ("--model", "../up"),
        ("--", "--trust-remote-code"),
        ("--", "--api_key=x"),
        ("--", "--trust-rem"),
        ("--", "--config", "x.yaml"),
        ("--max-n", "many"),
        ("--rate-limit", "fast"),
    ],
)
def test_bad_options(store: Store, arguments: tuple[str, ...]) -> None:
    _refused(_serve(store, *arguments), 78)


def test_a_taken_port_is_named(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in _refused(_serve(store, "--port", port), 78)


def test_waits_for_the_model_and_says_so_until_it_is_told_to_stop(store: Store) -> None:
    command = [sys.executable, "-m", "hone_server", "--store", str(store.root), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        data = json.loads(process.stderr.readline())["data"]
        url = f"http://{data['host']}:{data['port']}/ready"
        reason = "starting"
        while reason == "starting":
            answer = httpx.get(url)
            reason = answer.json()["reason"]
            time.sleep(0.01)
        assert answer.status_code == 503
        assert "waiting for a model" in reason
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM


def test_a_models_name_without_its_option(store: Store) -> None:
    assert "--model faq" in _refused(_serve(store, "faq"), 78)


@pytest.mark.parametrize("content", [b"# none\n,\n", b"\xff\xfe", b"ann:sha256:12\n"])
def test_a_key_file_that_holds_no_key(store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    _refused(_serve(store, HONE_API_KEY_FILE=str(tmp_path / "key")), 78)
