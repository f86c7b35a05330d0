"""Runs that several processes train together, and what they make."""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from socket import create_server
from typing import Any

import torch
from safetensors.torch import load_file
from trainer_cli import environment
from trainer_tiny import line, write_lines

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.events import RunStatus, StepMetrics
from hone_contract.store import Store
from hone_trainer.training.loop import Loop

# Each would otherwise take seconds to import what the command needs.
_server = get_context("forkserver")
_server.set_forkserver_preload(["trainer_together", "hone_trainer.train", "hone_trainer.sizing.estimate"])
_SECONDS = 120
COMMAND = ("train", "run.yaml")

Before = Callable[[int], None]


@dataclass(frozen=True)
class Run:
    """One run in a folder of its own."""

    folder: Path

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def diary(self) -> Path:
        [folder] = self.store.root.glob("runs/*")
        return folder

    @property
    def made(self) -> Artifact:
        [(kind, path)] = [each for each in self.store.artifacts() if each[0] in ("adapter", "weights")]
        return open_artifact(path, kind, digests=True)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        [file] = self.made.path.glob("*model.safetensors")
        return load_file(file)

    @property
    def status(self) -> RunStatus:
        return RunStatus.model_validate_json((self.diary / "status.json").read_text(encoding="utf-8"))

    @property
    def steps(self) -> list[StepMetrics]:
        lines = (self.diary / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = [StepMetrics.model_validate_json(each) for each in lines]
        return [each for each in found if each.loss is not None]

    def told(self, rank: int) -> str:
        return (self.folder / f"told-{rank}.txt").read_text(encoding="utf-8")

    def together(self, processes: int = 2, before: Before | None = None) -> list[int]:
        """The command, in so many processes that meet by themselves; their exit codes.

        `before` is called in each of them first, with its rank.
        """
        team = self.begin(processes, before)
        for member in team:
            member.join(_SECONDS)
        codes = [member.exitcode for member in team]
        for member in team:
            member.kill()
        return codes

    def begin(self, processes: int = 2, before: Before | None = None) -> list[Any]:
        """Likewise, without waiting for their end."""
        team = [
            _server.Process(target=_member, args=(self.folder, place, before)) for place in _places(processes)
        ]
        for member in team:
            member.start()
        return team

    def reaches(self, step: int, runs: Callable[[], bool]) -> None:
        """Wait until so many steps are done, while it runs."""
        until = time.monotonic() + _SECONDS
        while not (found := list(self.store.root.glob("runs/*/metrics.jsonl"))) or (
            found[0].read_text(encoding="utf-8").count('"loss"') < step
        ):
            assert runs(), "it ended before"
            assert time.monotonic() < until
            time.sleep(0.01)

    def start(self, *options: str, command: tuple[str, ...] = ("-m", "hone_trainer")) -> "Launched":
        """The real command, as one begins it."""
        return Launched(
            self,
            subprocess.Popen(
                [sys.executable, *command, *COMMAND, *options],
                cwd=self.folder,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
        )


@dataclass(frozen=True)
class Launched:
    """A command that runs."""

    run: Run
    process: "subprocess.Popen[str]"

    def reaches(self, step: int) -> None:
        self.run.reaches(step, lambda: self.process.poll() is None)

    def end(self) -> tuple[int, str, str]:
        """Its exit code, and what it told."""
        out, err = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, out, err

    def members(self) -> list[int]:
        """Process ids of those that it began, by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
                if int(parent) == self.process.pid:
                    variables = (folder / "environ").read_bytes().split(b"\0")
                    [rank] = [each[5:] for each in variables if each.startswith(b"RANK=")]
                    found[int(rank)] = int(folder.name)
            except (OSError, ValueError):
                # It has just ended, or just begun.
                continue
        return [found[rank] for rank in sorted(found)]


def make_run(folder: Path, base: Path, spec: str, more: list[str] | None = None) -> Run:
    """21 records to learn from, of several lengths, and 4 to judge by."""
    folder.mkdir(exist_ok=True)
    text = f"model: {{name: {base}}}\nname: drill\ndata: {{train: data.jsonl, eval_count: 4}}\n{spec}"
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    lines = [
        line(
            ("user", f"What is the colour of thing {number}?" + " blue" * (7 * number % 17)),
            ("assistant", "The sky is blue. " * (1 + number % 4)),
        )
        for number in range(25)
    ]
    write_lines(folder / "data.jsonl", [*lines, *(more or [])])
    return Run(folder)


def apart(one: Run, other: Run) -> float:
    """The largest difference of any weight."""
    mine, theirs = one.weights, other.weights
    assert mine.keys() == theirs.keys()
    assert all(mine[name].dtype is theirs[name].dtype for name in mine)
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def second_runs_out_of_memory(rank: int) -> None:
    """In its third step; no limit of a system holds for one process at one moment."""
    original = Loop.training_step

    def training_step(self: Any, *arguments: Any, **options: Any) -> Any:
        if rank == 1 and self.state.global_step == 2:
            raise MemoryError
        return original(self, *arguments, **options)

    Loop.training_step = training_step  # type: ignore[method-assign]


def _places(processes: int) -> list[dict[str, int]]:
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return [
        {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        for rank in range(processes)
    ]


def _member(folder: Path, place: dict[str, int], before: Before | None) -> None:
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    os.chdir(folder)
    out = os.open(f"told-{place['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(out, stream)
    torch.set_num_threads(1)
    if before is not None:
        before(place["RANK"])
    sys.argv = ["hone-trainer", *COMMAND]
    runpy.run_module("hone_trainer", run_name="__main__", alter_sys=True)
