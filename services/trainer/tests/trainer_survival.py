"""A run that is killed, stopped and starved at chosen moments, and what it may leave behind."""

import os
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from trainer_tiny import bytes_of, questions, write_lines

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.events import Event, RunStatus, StepMetrics
from hone_contract.store import Store
from hone_trainer.plan import make_plan

RECORDS = 24
COMMAND = ("train", "run.yaml")
SECONDS = 120

# Attempts are forked from a process that has imported all that the command imports, which takes seconds.
_server = get_context("forkserver")
_server.set_forkserver_preload(["trainer_survival", "hone_trainer.train", "hone_trainer.sizing.estimate"])

Before = Callable[[], None]


@dataclass(frozen=True)
class Run:
    """One run in a folder of its own, attempted as often as it takes."""

    folder: Path
    id: str
    place: str = "store"
    """Of its store, in its folder."""

    @property
    def store(self) -> Store:
        return Store(self.folder / self.place)

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
        return Attempt(self, _start_real(self) if real else _fork(self, before))

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
        self.from_ = len(text_of(self.run.folder / "told.txt"))

    def told(self) -> str:
        return text_of(self.run.folder / "told.txt")[self.from_ :]

    @property
    def has_begun(self) -> bool:
        """Whether the diary is now of this attempt."""
        return _written(self.run.diary / "status.json") != self.seen

    @property
    def is_alive(self) -> bool:
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll() is None
        return bool(self.process.is_alive())

    def strike(self, number: signal.Signals) -> int:
        """Send the signal and wait; the exit code."""
        os.kill(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, negative for the signal that ended it."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(SECONDS)
        self.process.join(SECONDS)
        code: int | None = self.process.exitcode
        if code is None:
            self.process.kill()
        assert code is not None, f"it does not end: {self.told()}"
        return code


def _start_real(run: Run) -> "subprocess.Popen[bytes]":
    with (run.folder / "told.txt").open("ab") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "hone_trainer", *COMMAND],
            cwd=run.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HONE_STORE": run.place},
            stdout=told,
            stderr=told,
        )


def _fork(run: Run, before: Before | None) -> Any:
    process = _server.Process(target=_command, args=(run, before))
    process.start()
    return process


def _command(run: Run, before: Before | None) -> None:
    os.chdir(run.folder)
    os.environ["HONE_STORE"] = run.place
    told = os.open("told.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(told, stream)
    torch.set_num_threads(1)
    if before is not None:
        before()
    sys.argv = ["hone-trainer", *COMMAND]
    runpy.run_module("hone_trainer", run_name="__main__", alter_sys=True)


def limit_file_size(size: int) -> None:
    """For `before`: a file that grows beyond so many bytes is a full disk to whoever writes it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limit_memory(more: int) -> None:
    """For `before`: so many bytes more than the process has mapped now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
