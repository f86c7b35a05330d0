"""Beginning the processes of a run, and ending them together; on small scripts in place of a training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hone_contract.errors import BadConfiguration
from hone_trainer import launch
from hone_trainer.launch import check_alone, choose
from hone_trainer.node import ALONE

pytestmark = pytest.mark.chain

# What begins a script is begun itself, so that it can be sent signals and be killed.
_LAUNCHER = (
    "import sys; from hone_trainer.launch import launch; sys.exit(launch(sys.argv[2:], int(sys.argv[1])))"
)
_RANK = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
_WAITS = "print(rank, flush=True)\ntime.sleep(60)\n"


def begin(folder: Path, script: str, processes: int = 2) -> "subprocess.Popen[str]":
    (folder / "script.py").write_text(_RANK + script, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, str(processes), sys.executable, "script.py"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(launcher: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = launcher.communicate(timeout=60)
    return launcher.returncode, out, err


def wait_for(launcher: "subprocess.Popen[str]", processes: int = 2) -> None:
    """Until each has written a line."""
    assert launcher.stdout is not None
    for _ in range(processes):
        assert launcher.stdout.readline()


def test_each_process_is_told_its_place(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS"
    script = f"sys.stdout.write(' '.join(os.environ[name] for name in '{names}'.split()) + '\\n')"
    code, out, err = end(begin(tmp_path, script, 3))
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [f"{rank} {rank} 3 3 127.0.0.1 {threads}" for rank in range(3)]


def test_the_threads_that_were_chosen_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launch._environment(os.environ, 0, 2, ALONE)["OMP_NUM_THREADS"] == "7"


def test_the_first_process_is_handed_the_door_that_the_others_come_to(tmp_path: Path) -> None:
    script = """
import socket
if rank == 0:
    door = socket.socket(fileno=int(os.environ['HONE_RENDEZVOUS_FD']))
    print(door.accept()[0].recv(5).decode())
else:
    assert 'HONE_RENDEZVOUS_FD' not in os.environ
    place = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    socket.create_connection(place, timeout=30).send(b'hello')
"""
    assert end(begin(tmp_path, script)) == (0, "hello\n", "")


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 65), 65), ((65, 75), 65), ((75, 78), 78), ((75, 75), 75), ((143, 75), 75), ((130, 130), 75)],
)
def test_the_code_is_that_of_what_went_wrong(tmp_path: Path, codes: tuple[int, ...], expected: int) -> None:
    assert end(begin(tmp_path, f"sys.exit({codes}[rank])"))[0] == expected


@pytest.mark.parametrize("stubborn", [False, True])
def test_one_that_fails_ends_the_others(
    tmp_path: Path, stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even those that wait for something and do not listen."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    short = _LAUNCHER.replace(
        "; sys.exit", "; import hone_trainer.launch as module; module._GRACE = 0.3; sys.exit"
    )
    monkeypatch.setattr(f"{__name__}._LAUNCHER", short)
    began = time.monotonic()
    launcher = begin(tmp_path, f"{deaf}print(rank, flush=True)\nif rank: sys.exit(66)\ntime.sleep(60)")
    assert end(launcher)[0] == 66
    assert time.monotonic() - began < 20


def test_one_that_is_killed_is_told(tmp_path: Path) -> None:
    code, _, err = end(begin(tmp_path, "if rank: os.kill(os.getpid(), signal.SIGKILL)"))
    assert code == 128 + signal.SIGKILL
    assert "process 1 of 2 was ended by SIGKILL" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_once_to_each(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
got = []
signal.signal({int(number)}, lambda *_: got.append(1))
print(rank, flush=True)
until = time.monotonic() + 30
while not got and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(75 if len(got) == 1 else 1)
"""
    launcher = begin(tmp_path, script)
    wait_for(launcher)
    launcher.send_signal(number)
    assert end(launcher) == (75, "", "")


def test_processes_that_were_stopped_before_they_listened_may_be_begun_again(tmp_path: Path) -> None:
    launcher = begin(tmp_path, _WAITS)
    wait_for(launcher)
    launcher.send_signal(signal.SIGTERM)
    assert end(launcher) == (75, "", "")


def test_a_launcher_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    script = f"""
from hone_trainer.launch import end_with_launcher
end_with_launcher()
open(f'pid-{{rank}}', 'w').write(str(os.getpid()))
{_WAITS}"""
    launcher = begin(tmp_path, script)
    wait_for(launcher)
    launcher.kill()
    launcher.wait()
    members = [Path("/proc", (tmp_path / f"pid-{rank}").read_text(encoding="utf-8")) for rank in range(2)]
    until = time.monotonic() + 30
    while any(_runs(member) for member in members):
        assert time.monotonic() < until
        time.sleep(0.01)


def _runs(process: Path) -> bool:
    """A process that nobody has waited for is there, but ended."""
    try:
        return (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_there_is_one_process_for_each_gpu() -> None:
    assert choose(None, gpus=0) == 1
    assert choose(None, gpus=4) == 4
    assert choose(2, gpus=4) == 2
    assert choose(3, gpus=0) == 3


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="--processes 3: this machine has 2 GPUs"):
        choose(3, gpus=2)


def test_what_trains_on_one_gpu_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for asked in (None, 1):
        check_alone("unsloth", asked)
    with pytest.raises(BadConfiguration, match="backend: unsloth trains in one process"):
        check_alone("unsloth", 2)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadConfiguration, match="backend: unsloth trains in one process"):
        check_alone("unsloth", None)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: 'two' is no number"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "1"}, "WORLD_SIZE is 2, but MASTER_ADDR is missing"),
    ],
)
def test_an_environment_that_does_not_say_it_in_full_is_told(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadConfiguration, match=told):
        launch.world()
