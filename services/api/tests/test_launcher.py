"""The local launcher: every stage runs once, is found again, and leaves nothing behind."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import psutil
import pytest
from api_stages import (
    APPEND,
    JOB,
    NAME,
    SLEEP,
    begin_in,
    ended,
    is_alive,
    keeper_of,
    kept_by_nobody,
    launcher,
    lines,
    pid_of,
    python,
    until,
)

import hone_api
from hone_api.launcher.environment import without_secrets
from hone_api.launcher.folder import Folder
from hone_api.launcher.gpus import gpus
from hone_api.launcher.local import LocalLauncher
from hone_api.launcher.stages import Command, State
from hone_api.settings import Settings, Upstream

# Each begins processes.
pytestmark = pytest.mark.chain

HANDLES = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
# It outlives whoever began it, in a session of its own.
GRANDCHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {APPEND + SLEEP!r}, sys.argv[2]], start_new_session=True)
import time
while not __import__("os").path.exists(sys.argv[2]): time.sleep(0.01)
"""


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Where the stages are; no test leaves a process behind."""
    data = tmp_path.resolve() / "data"
    yield data
    for name in launcher(data).names(JOB):
        if keeper := keeper_of(data, name):
            os.kill(keeper, signal.SIGKILL)
    until(lambda: kept_by_nobody(tmp_path))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file that has a line for every run."""
    return tmp_path.resolve() / "ran"


@pytest.fixture(scope="module")
def servant() -> ForkServerContext:
    """Begins processes in a moment, which have what they need imported already."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["api_stages"])
    return context


@pytest.mark.parametrize("code", [0, 1, 75, 255])
def test_an_exit_code_is_kept(data: Path, code: int) -> None:
    here = launcher(data)
    here.begin(NAME, python(f"raise SystemExit({code})"))
    assert ended(here) == State("ended", code)
    assert launcher(data).state(NAME) == State("ended", code)


def test_a_command_that_a_signal_ended_has_the_code_that_a_shell_gives(data: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python("import os; os.kill(os.getpid(), 11)"))
    assert ended(here) == State("ended", 139)


def test_what_it_writes_is_kept_and_what_it_is_given_reaches_it(data: Path) -> None:
    code = "import os, sys\nprint(os.environ['GIVEN'], sys.stdin.read(), os.getcwd(), flush=True)\n"
    here = launcher(data)
    here.begin(NAME, python(code + "os.write(2, b'bad')", GIVEN="gift"))
    ended(here)
    assert here.output(NAME).read_text().split() == ["gift", os.getcwd(), "bad"]


def test_a_command_that_is_not_there_says_so(data: Path) -> None:
    here = launcher(data)
    here.begin(NAME, Command(["/no/such/program"]))
    assert ended(here) == State("ended", 127)
    assert "/no/such/program: cannot be run" in here.output(NAME).read_text()


def test_a_stage_that_was_never_begun_is_absent(data: Path) -> None:
    here = launcher(data)
    assert here.state(NAME) == State("absent")
    assert here.names(JOB) == []
    here.stop(NAME)
    here.forget(NAME)
    assert here.state(NAME) == State("absent")


def test_it_runs_as_soon_as_begin_returns(data: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(SLEEP))
    assert here.state(NAME) == State("running")
    assert here.names(JOB) == [NAME]


def test_begun_again_it_runs_once(data: Path, ran: Path) -> None:
    here = launcher(data)
    for _ in range(3):
        here.begin(NAME, python(APPEND, ran))
        launcher(data).begin(NAME, python(APPEND, ran))
    assert ended(here) == State("ended", 0)
    here.begin(NAME, python(APPEND, ran))
    assert here.state(NAME) == State("ended", 0)
    assert len(lines(ran)) == 1


def test_begun_by_many_threads_it_runs_once(data: Path, ran: Path) -> None:
    here = launcher(data)
    threads = [threading.Thread(target=here.begin, args=(NAME, python(APPEND, ran))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended(here) == State("ended", 0)
    assert len(lines(ran)) == 1


def test_begun_by_processes_at_once_it_runs_once(data: Path, ran: Path, servant: ForkServerContext) -> None:
    command = python(APPEND + "import time; time.sleep(0.3)", ran)
    beginners = [servant.Process(target=begin_in, args=(data, command, None, 4)) for _ in range(4)]
    for beginner in beginners:
        beginner.start()
    for beginner in beginners:
        beginner.join()
        assert beginner.exitcode == 0
    assert ended(launcher(data)) == State("ended", 0)
    assert len(lines(ran)) == 1


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(n, marks=pytest.mark.chain) for n in range(5, 30))]
)
def test_whenever_its_beginner_is_killed_it_runs_once(
    data: Path, ran: Path, servant: ForkServerContext, seed: int
) -> None:
    command = python(APPEND + "import time; time.sleep(0.05)", ran)
    ready = servant.Event()
    beginner = servant.Process(target=begin_in, args=(data, command, ready))
    beginner.start()
    assert ready.wait(20)
    time.sleep(random.Random(seed).uniform(0, 0.2))
    beginner.kill()
    beginner.join()
    here = launcher(data)
    here.begin(NAME, command)
    assert ended(here) == State("ended", 0)
    assert len(lines(ran)) == 1
    until(lambda: kept_by_nobody(ran))


def test_whoever_looks_sees_it_absent_then_running_then_ended(data: Path) -> None:
    order = {State("absent"): 0, State("running"): 1, State("ended", 7): 2}
    seen: list[list[int]] = [[] for _ in range(3)]

    def look(mine: list[int]) -> None:
        here = launcher(data)
        while mine[-1:] != [2] and time.monotonic() < late:
            mine.append(order.get(here.state(name), -1))

    for number in range(4):
        name, late = f"ftjob-1/{number}-train", time.monotonic() + 20
        lookers = [threading.Thread(target=look, args=(mine,)) for mine in seen]
        for looker in lookers:
            looker.start()
        launcher(data).begin(name, python("raise SystemExit(7)"))
        for looker in lookers:
            looker.join()
        for mine in seen:
            assert mine[-1] == 2
            assert mine == sorted(mine)
            mine.clear()


def test_another_api_finds_what_runs(data: Path, ran: Path, servant: ForkServerContext) -> None:
    beginner = servant.Process(target=begin_in, args=(data, python(HANDLES + APPEND + SLEEP, ran)))
    beginner.start()
    pid = pid_of(ran)
    beginner.kill()
    beginner.join()
    here = launcher(data)
    assert here.state(NAME) == State("running")
    assert is_alive(pid)
    here.stop(NAME)
    assert ended(here) == State("ended", 75)


def test_a_keeper_that_comes_late_leaves_the_stage_alone(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(APPEND, ran))
    ended(here)
    keeper = [sys.executable, "-m", "hone_api.launcher.keeper"]
    subprocess.run([*keeper, str(data / "stages" / NAME)], check=True, timeout=20)
    subprocess.run([*keeper, str(data / "stages" / "gone")], check=True, timeout=20)
    assert here.state(NAME) == State("ended", 0)
    assert len(lines(ran)) == 1


def test_a_keeper_that_comes_after_one_that_was_killed_leaves_the_stage_alone(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(APPEND + SLEEP, ran))
    pid_of(ran)
    os.kill(keeper_of(data) or 0, signal.SIGKILL)
    until(lambda: keeper_of(data) is None)
    keeper = [sys.executable, "-m", "hone_api.launcher.keeper", str(data / "stages" / NAME)]
    subprocess.run(keeper, check=True, timeout=20)
    assert here.state(NAME) == State("ended", None)
    assert len(lines(ran)) == 1


def test_a_stage_whose_folder_is_gone_stops(data: Path, ran: Path) -> None:
    launcher(data).begin(NAME, python(HANDLES + APPEND + SLEEP, ran))
    pid = pid_of(ran)
    shutil.rmtree(data)
    until(lambda: not is_alive(pid))


def test_a_keeper_that_ends_while_one_looks_was_not_lost(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(data / "stages" / NAME)
    folder.path.mkdir(parents=True)
    folder.mark_begun()

    def holder(self: Folder) -> None:
        self.mark_ended(7)

    monkeypatch.setattr(Folder, "holder", holder)
    assert launcher(data).state(NAME) == State("ended", 7)


def test_a_keeper_that_begins_while_one_looks_is_not_lost(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(data / "stages" / NAME)
    folder.path.mkdir(parents=True)

    def holder(self: Folder) -> None:
        self.mark_begun()

    monkeypatch.setattr(Folder, "holder", holder)
    assert launcher(data).state(NAME) == State("absent")


def test_a_command_dies_with_its_keeper_and_is_lost(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(STUBBORN + APPEND + SLEEP, ran))
    pid = pid_of(ran)
    os.kill(keeper_of(data) or 0, signal.SIGKILL)
    # Before anybody looks: the kernel does it.
    until(lambda: not is_alive(pid))
    assert ended(here) == State("ended", None)
    here.begin(NAME, python(APPEND, ran))
    assert launcher(data).state(NAME) == State("ended", None)
    assert len(lines(ran)) == 1


def test_what_a_killed_keeper_leaves_is_ended_before_it_is_called_lost(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(GRANDCHILD + SLEEP, "", ran))
    grandchild = pid_of(ran)
    os.kill(keeper_of(data) or 0, signal.SIGKILL)
    assert ended(here) == State("ended", None)
    assert not is_alive(grandchild)


def test_what_a_command_leaves_is_ended_with_it(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(GRANDCHILD + "sys.exit(3)", "", ran))
    assert ended(here) == State("ended", 3)
    assert not is_alive(pid_of(ran))


def test_stop_lets_the_command_end_itself(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(HANDLES + APPEND + SLEEP, ran))
    pid_of(ran)
    for _ in range(3):
        here.stop(NAME)
    assert ended(here) == State("ended", 75)


def test_a_signal_to_the_keeper_reaches_the_command(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(HANDLES + APPEND + SLEEP, ran))
    pid_of(ran)
    os.kill(keeper_of(data) or 0, signal.SIGTERM)
    assert ended(here) == State("ended", 75)


def test_what_does_not_stop_is_ended_with_all_that_it_began(data: Path, ran: Path) -> None:
    here = launcher(data, stop_seconds=0.3)
    here.begin(NAME, python(STUBBORN + GRANDCHILD + SLEEP, "", ran))
    grandchild = pid_of(ran)
    here.stop(NAME)
    # Whoever asked may be gone by then.
    del here
    assert ended(launcher(data)) == State("ended", 137)
    assert not is_alive(grandchild)


def test_a_stage_that_was_stopped_before_its_keeper_came_never_runs(data: Path, ran: Path) -> None:
    folder = data / "stages" / NAME
    folder.mkdir(parents=True)
    here = launcher(data)
    here.stop(NAME)
    assert here.state(NAME) == State("absent")
    here.begin(NAME, python(APPEND, ran))
    assert ended(here) == State("ended", 143)
    assert lines(ran) == []


def test_what_was_written_down_but_has_no_keeper_is_begun_again(data: Path, ran: Path) -> None:
    """As kill -9 leaves it just before the keeper is begun."""
    folder = data / "stages" / NAME
    folder.mkdir(parents=True)
    command = python(APPEND, ran)
    told = {"arguments": command.arguments, "environment": {}, "stop_seconds": 1}
    Folder(folder).write_command(told)
    here = launcher(data)
    assert here.state(NAME) == State("absent")
    here.begin(NAME, python("raise SystemExit('what was written first counts')"))
    assert ended(here) == State("ended", 0)
    assert len(lines(ran)) == 1


def test_a_stage_that_cannot_be_written_down_is_not_begun(data: Path) -> None:
    here = launcher(data)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            here.begin(NAME, python("pass"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert here.state(NAME) == State("absent")
    here.begin(NAME, python("pass"))
    assert ended(here) == State("ended", 0)


def test_a_full_disk_takes_no_exit_code(data: Path) -> None:
    """It is written over what is there already."""
    folder = Folder(data / "stages" / NAME)
    folder.path.mkdir(parents=True)
    folder.mark_begun()
    before = (folder.path / "begun").stat()
    folder.mark_ended(255)
    after = (folder.path / "exit.json").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert folder.code() == 255


def test_an_exit_code_that_cannot_be_written_is_lost_and_nothing_runs_again(data: Path, ran: Path) -> None:
    full = "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, 0))\n"
    here = launcher(data)
    here.begin(NAME, python(APPEND + full, ran))
    assert ended(here) == State("ended", None)
    here.begin(NAME, python(APPEND, ran))
    assert here.state(NAME) == State("ended", None)
    assert len(lines(ran)) == 1


def test_secrets_stay_with_the_api(data: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "HONE_API_DATABASE": "postgresql://a:b@c/d",
        "HONE_API_KEY": "x",
        "ODD": "x",
        "PGPASSWORD": "x",
    }
    for name, value in {**secrets, "HF_TOKEN": "needed", "PLAIN": "1"}.items():
        monkeypatch.setenv(name, value)
    server = Upstream(url="http://server", base="b", key_variable="ODD")
    here = LocalLauncher(Settings(data=data, servers=[server]))
    code = "import json, os\nprint(json.dumps(dict(os.environ)), flush=True)\n"
    here.begin(NAME, python(code + APPEND + SLEEP, ran, GIVEN_KEY="given"))
    pid_of(ran)
    theirs = json.loads(here.output(NAME).read_text())
    for environment in (theirs, psutil.Process(keeper_of(data)).environ()):
        assert not secrets.keys() & environment.keys()
        assert (environment["HF_TOKEN"], environment["PLAIN"]) == ("needed", "1")
    assert theirs["GIVEN_KEY"] == "given"
    assert theirs["HONE_STAGE"] == str(data / "stages" / NAME)


def test_what_looks_like_a_secret_is_one() -> None:
    secret = ("WANDB_API_KEY", "GITHUB_TOKEN", "aws_secret_access_key", "CLIENT_SECRET", "PGPASSWORD")
    assert without_secrets(dict.fromkeys((*secret, "KEYBOARD", "MONKEY", "PATH"), "1")) == {
        "KEYBOARD": "1",
        "MONKEY": "1",
        "PATH": "1",
    }


def test_what_is_kept_is_for_nobody_else_to_read(data: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python("pass", SOME_KEY="secret"))
    ended(here)
    folder = data / "stages" / NAME
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("command.json", "exit.json", "lock", "output.log"), 0o600
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "job",
        "../1-train",
        "job/..",
        "/etc/x",
        "a/b/c",
        "job/",
        "job/a\0",
        "job/a\n",
        ".a/b",
        "a" * 101 + "/b",
    ],
)
def test_a_name_leads_nowhere_else(data: Path, name: str) -> None:
    here = launcher(data)
    for act in (here.state, here.stop, here.output, here.forget):
        with pytest.raises(ValueError, match="no stage's name"):
            act(name)
    with pytest.raises(ValueError, match="no stage's name"):
        here.begin(name, python("pass"))
    assert not data.exists()


def test_only_what_has_ended_is_forgotten(data: Path, ran: Path) -> None:
    here = launcher(data)
    here.begin(NAME, python(HANDLES + APPEND + SLEEP, ran))
    here.begin("ftjob-1/2-merge", python("pass"))
    pid_of(ran)
    with pytest.raises(RuntimeError, match="stop it"):
        here.forget(NAME)
    assert here.names(JOB) == [NAME, "ftjob-1/2-merge"]
    ended(here, "ftjob-1/2-merge")
    here.forget("ftjob-1/2-merge")
    here.stop(NAME)
    ended(here)
    here.forget(NAME)
    assert here.names(JOB) == []
    assert here.state(NAME) == State("absent")
    assert [path.name for path in (data / "stages").iterdir()] == [".forgotten"]
    here.begin(NAME, python("raise SystemExit(9)"))
    assert ended(here) == State("ended", 9)


def test_no_keeper_stays_in_the_list_of_processes(data: Path) -> None:
    here = launcher(data)
    before = {child.pid for child in psutil.Process().children()}
    here.begin(NAME, python("pass"))
    ended(here)

    def are_gone() -> bool:
        here.state(NAME)
        return {child.pid for child in psutil.Process().children()} <= before

    until(are_gone)


def test_a_stage_has_none_of_the_apis_descriptors(data: Path, tmp_path: Path) -> None:
    code = "import os\nprint(*(os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')))"
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        here = launcher(data)
        here.begin(NAME, python(code))
        ended(here)
    held = set(here.output(NAME).read_text().split())
    assert {path for path in held if not path.startswith("/proc/")} == {"/dev/null", str(here.output(NAME))}


def test_a_keeper_is_light() -> None:
    """It needs nothing that is installed."""
    code = "import sys, hone_api.launcher.keeper\nprint(*{name.partition('.')[0] for name in sys.modules})"
    path = str(Path(hone_api.__file__).parents[1])
    told = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(told.stdout.split()) - {"hone_api", "__main__"} <= sys.stdlib_module_names


def test_gpus_are_counted_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: GPU-2)'\n"
    )
    tool.chmod(0o755)
    assert gpus() == ["0", "1"]
    assert gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-2"}) == ["3", "GPU-2"]
    assert gpus({"CUDA_VISIBLE_DEVICES": "1,-1,0"}) == ["1"]
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert gpus() == []
