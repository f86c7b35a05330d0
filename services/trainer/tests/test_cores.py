"""Work on all cores: in order, and ended with whoever asked for it."""

import signal
import subprocess
import sys
import time

import psutil

from hone_trainer.data.cores import on_all_cores

# The parent's processes wait for pieces when it is killed.
_PARENT = """
import time
from hone_trainer.data.cores import on_all_cores
if __name__ == "__main__":
    for done in on_all_cores(abs, iter(range(100))):
        print(done, flush=True)
        time.sleep(60)
"""


def test_the_answers_come_in_the_order_of_the_pieces() -> None:
    assert list(on_all_cores(abs, range(-9, 0))) == list(range(9, 0, -1))
    assert list(on_all_cores(abs, [])) == []


def test_no_process_outlives_a_parent_that_was_killed(tmp_path: object) -> None:
    script = f"{tmp_path}/parent.py"
    with open(script, "w", encoding="utf-8") as file:
        file.write(_PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"0\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) > 1
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.05)
