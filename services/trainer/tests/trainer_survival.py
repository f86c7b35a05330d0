"""A run that is killed, stopped and starved at chosen moments, and what it may leave behind."""

import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import torch
from trainer_tiny import bytes_of, questions, write_lines

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import RetryableFailure
from hone_contract.events import Event, RunStatus, StepMetrics
from hone_contract.store import Store
from hone_trainer.plan import make_plan

RECORDS = 24
COMMAND = ("train", "run.yaml")
_SECONDS = 120
_POLL = 0.001

# Attempts are forked from a process that has imported all that the command imports, which takes seconds.
_server = get_context("forkserver")
_server.set_forkserver_preload(["trainer_survival", "hone_trainer.train", "hone_trainer.estimate"])

Before = Callable[[], None]


@dataclass(frozen=True)
class Run:
    """One run in a folder of its own, attempted as often as it takes."""

    folder: Path
    id: str

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def diary(self) -> Path:
        return self.store.run(self.id)

    def events(self, name: str) -> list[Event]:
        lines = _lines(self.diary / "events.jsonl")
        return [event for event in map(Event.model_validate_json, lines) if event.event == name]

    def status(self) -> RunStatus:
        return RunStatus.model_validate_json((self.diary / "status.json").read_text(encoding="utf-8"))

    def metrics(self) -> list[StepMetrics]:
        return [StepMetrics.model_validate_json(line) for line in _lines(self.diary / "metrics.jsonl")]

    def steps(self) -> list[StepMetrics]:
        """The lines of steps, without what depends on the time they took."""
        timed = {"tokens_per_second": None, "memory_mb": None}
        return [line.model_copy(update=timed) for line in self.metrics() if line.loss is not None]

    def checkpoint(self, step: int) -> Path:
        return self.store.checkpoint(self.id, step)

    def checkpoints(self) -> list[int]:
        """Steps of those that have their name, the newest first."""
        names = [path.name.removeprefix("step-") for path in self.diary.glob("checkpoints/step-*")]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def made(self) -> Artifact:
        """What it was trained for."""
        [(kind, path)] = [found for found in self.store.artifacts() if found[0] in ("adapter", "weights")]
        return open_artifact(path, kind, digests=True)

    def check_whole(self) -> None:
        """Whatever has an artifact's name can be opened, every byte of it."""
        for kind, path in self.store.artifacts():
            open_artifact(path, kind, digests=True)

    def start(self, *, real: bool = False, before: Before | None = None) -> "Attempt":
        """The command, in a process of its own; `before` is called in it first, unless it is the real one."""
        return Attempt(self, _start_real(self.folder) if real else _fork(self.folder, before))

    def end(self, **how: Any) -> str:
        """Let the command go on to its end; what it told."""
        attempt = self.start(**how)
        assert attempt.wait() == 0, attempt.told()
        return attempt.told()


def make_run(folder: Path, base: Path, spec: str, lines: list[str] | None = None) -> Run:
    """A run in a new folder, of these records or of some that are easily learned; `spec` may say `data`."""
    folder.mkdir()
    data = "" if "data:" in spec else "data: data.jsonl\n"
    text = f"model: {{name: {base}}}\nname: drill\n{data}{spec}"
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    write_lines(folder / "data.jsonl", questions(RECORDS) if lines is None else lines)
    # Planned elsewhere: the attempts shall find nothing done.
    return Run(folder, make_plan(folder / "run.yaml", None, Store(folder / "planned")).run_id)


def is_same(run: Run, other: Run) -> None:
    """Two runs that made the same, bit for bit, in the same steps."""
    mine, theirs = run.made(), other.made()
    ours = bytes_of(mine.path)
    for name, content in bytes_of(theirs.path).items():
        assert name == "manifest.json" or ours[name] == content, name
    assert mine.manifest.digest == theirs.manifest.digest
    assert run.steps() == other.steps()
    evaluations = [[line for line in each.metrics() if line.eval_loss is not None] for each in (run, other)]
    assert evaluations[0] == evaluations[1]
    assert run.status().state == other.status().state == "succeeded"
    assert not run.store.partials()


# -- processes -------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """A process of the command."""

    run: Run
    process: Any
    seen: int = field(init=False)
    """When the status was written before it began, in nanoseconds."""
    from_: int = field(init=False)

    def __post_init__(self) -> None:
        self.seen = _written(self.run.diary / "status.json")
        self.from_ = len(_text(self.run.folder / "told.txt"))

    def told(self) -> str:
        return _text(self.run.folder / "told.txt")[self.from_ :]

    @property
    def has_begun(self) -> bool:
        """Whether the diary is now of this attempt."""
        return _written(self.run.diary / "status.json") != self.seen

    def reaches(self, moment: "Moment") -> bool:
        """Wait for the moment; False if the process ends before."""
        until = time.monotonic() + _SECONDS
        while self.process.is_alive() if hasattr(self.process, "is_alive") else self.process.poll() is None:
            if moment.is_there(self):
                time.sleep(moment.delay)
                return True
            assert time.monotonic() < until, f"{moment.name} never came: {self.told()}"
            time.sleep(_POLL)
        return False

    def strike(self, number: signal.Signals) -> int:
        """Send the signal and wait; the exit code."""
        os.kill(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, negative for the signal that ended it."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(_SECONDS)
        self.process.join(_SECONDS)
        code: int | None = self.process.exitcode
        if code is None:
            self.process.kill()
        assert code is not None, f"it does not end: {self.told()}"
        return code


def _start_real(folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "told.txt").open("ab") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "hone_trainer", *COMMAND],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=told,
            stderr=told,
        )


def _fork(folder: Path, before: Before | None) -> Any:
    process = _server.Process(target=_command, args=(folder, before))
    process.start()
    return process


def _command(folder: Path, before: Before | None) -> None:
    os.chdir(folder)
    told = os.open("told.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(told, stream)
    torch.set_num_threads(1)
    if before is not None:
        before()
    sys.argv = ["hone-trainer", *COMMAND]
    runpy.run_module("hone_trainer", run_name="__main__", alter_sys=True)


def set_variable(name: str, value: str) -> None:
    """For `before`: of the environment."""
    os.environ[name] = value


def limit_file_size(size: int) -> None:
    """For `before`: a file that grows beyond so many bytes is a full disk to whoever writes it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limit_memory(more: int) -> None:
    """For `before`: so many bytes more than the process has mapped now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


# -- blows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When a process is struck: so long after something is seen on the disk."""

    name: str
    is_there: Callable[[Attempt], bool]
    delay: float
    """Seconds."""
    trains: bool = False
    """Whether the run is then between its first step and its last."""
    is_late: bool = False
    """Whether the run may have ended before the delay has."""


Blow = tuple[Moment, signal.Signals]


def planning(delay: float) -> Moment:
    """From the start on."""
    return Moment("planning", lambda _: True, delay)


def planned(delay: float) -> Moment:
    """The first thing that the command tells; then it imports torch, tokenises and loads."""
    return Moment("planned", lambda attempt: "dataset_ready" in attempt.told(), delay)


def loading(delay: float) -> Moment:
    return Moment("loading", lambda attempt: attempt.has_begun, delay)


def stepping(step: int, delay: float) -> Moment:
    def is_there(attempt: Attempt) -> bool:
        done = re.findall(r'^{"step":(\d+),', _text(attempt.run.diary / "metrics.jsonl"), re.MULTILINE)
        return attempt.has_begun and any(int(each) >= step for each in done)

    return Moment(f"step {step}", is_there, delay, trains=True)


def saving(step: int, delay: float) -> Moment:
    """A checkpoint is being written, of this step or a later one, or the last one is."""

    def is_there(attempt: Attempt) -> bool:
        partial = attempt.run.diary.glob("checkpoints/step-*.partial-*")
        numbers = [int(path.name.split(".")[0].removeprefix("step-")) for path in partial]
        return attempt.has_begun and (any(number >= step for number in numbers) or _probes(attempt))

    return Moment(f"saving {step}", is_there, delay, trains=True)


def probing(delay: float) -> Moment:
    return Moment("probing", _probes, delay, is_late=True)


def sealing(delay: float) -> Moment:
    """Between the last file of the result and its manifest's name."""

    def is_there(attempt: Attempt) -> bool:
        return any(attempt.run.store.root.glob("*/*.partial-*/probes.json"))

    return Moment("sealing", is_there, delay, is_late=True)


def blows(seed: int, kills: int, stops: int, steps: int) -> list[Blow]:
    """So many, in the order of the run: some before it trains, some after, most in and between its steps."""
    random = Random(seed)
    early = [
        planning(random.uniform(0, 0.1)),
        planned(random.uniform(0, 0.3)),
        loading(random.uniform(0, 0.4)),
    ]
    late = [probing(random.uniform(0, 0.1)), sealing(random.uniform(0, 0.03))]
    if kills < 8:
        early, late = [early[0]], [random.choice(late)]
    places = sorted(random.randrange(1, steps - 4) for _ in range(kills + stops - len(early) - len(late)))
    moments = [*early, *(_in_training(random, place) for place in places), *late]
    # Until the command's own code runs there is nothing that could answer a signal.
    stopped = random.sample(range(1, len(moments)), stops)
    soft = [random.choice((signal.SIGTERM, signal.SIGINT)) for _ in moments]
    return [
        (moment, soft[index] if index in stopped else signal.SIGKILL) for index, moment in enumerate(moments)
    ]


def survive(run: Run, blows: list[Blow], *, real: bool = False) -> None:
    """Strike the run at each moment and begin it again, to its end; checks what each blow left."""
    for moment, number in blows:
        newest = run.checkpoints()[:1]
        attempt = run.start(real=real)
        if not attempt.reaches(moment):
            # It was sealed before the blow that came just now.
            assert moment.is_late and attempt.wait() == 0, f"no {moment.name}: {attempt.told()}"
            break
        code = attempt.strike(number)
        run.check_whole()
        _check_code(attempt, moment, number, code)
        _check_resumed(attempt, newest)
    newest = run.checkpoints()[:1]
    last = run.start(real=real)
    assert last.wait() == 0, last.told()
    _check_resumed(last, newest)


def _check_code(attempt: Attempt, moment: Moment, number: signal.Signals, code: int) -> None:
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL or (moment.is_late and code == 0), attempt.told()
        return
    assert code == RetryableFailure.exit_code, f"{moment.name}, {number.name}: {attempt.told()}"
    if moment.trains:
        status = attempt.run.status()
        assert (status.state, status.step) == ("stopped", attempt.run.checkpoints()[0])


def _check_resumed(attempt: Attempt, newest: list[int]) -> None:
    """It went on from the checkpoint that was the newest, and said so."""
    if "training_started" in attempt.told():
        found = [event.data["step"] for event in attempt.run.events("resumed")]
        assert found[-1:] == newest


def _in_training(random: Random, step: int) -> Moment:
    kind, delay = random.choice([(saving, 0.12), (stepping, 0.05)])
    return kind(step, random.uniform(0, delay))


def _probes(attempt: Attempt) -> bool:
    return attempt.has_begun and '"event":"probing"' in attempt.told()


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
