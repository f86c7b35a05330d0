"""A trainer and a merger that learn nothing, and keep the stage protocol to the letter.

Like the real ones it takes a run file and a store, writes status, metrics and sealed checkpoints, keeps the
newest of those and goes on from them, saves one and leaves with 75 upon SIGTERM, refuses to write what
another process is writing, finds what was made before, and leaves a sealed adapter and the run's id. What it
does is in the text of the first example: `steps=20 pace=0.01 end=65`, or `die=7` for an end by force at a
step, once.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from hone_contract.artifact import draft, open_artifact, remove, seal, write_atomically
from hone_contract.edge import run
from hone_contract.errors import BadConfiguration, BadInput, HoneError, RetryableFailure
from hone_contract.events import RunStatus, StepMetrics, append_line, write_status
from hone_contract.store import Store

_ERRORS: dict[int, type[HoneError]] = {65: BadInput, 75: RetryableFailure, 78: BadConfiguration}
BASE = "stand-in-base"


def main() -> None:
    run(_main)


def _main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train")
    train.add_argument("spec", type=Path)
    train.add_argument("--run-id-file", type=Path, required=True)
    train.set_defaults(act=_train)
    importing = commands.add_parser("import-adapter")
    importing.add_argument("folder", type=Path)
    importing.add_argument("--base", required=True)
    importing.add_argument("--name", required=True)
    importing.set_defaults(act=_import)
    merge = commands.add_parser("merge")
    merge.add_argument("run_id")
    merge.add_argument("--name", required=True)
    merge.set_defaults(act=_merge)
    options = parser.parse_args()
    options.act(options, Store.from_environment())


def make_base(store: Store) -> None:
    """The base of which all adapters are."""
    with draft(store.base(BASE), None) as partial:
        (partial / "config.json").write_text("{}", encoding="utf-8")
        seal(partial, "base", BASE, lineage={})


def _train(options: argparse.Namespace, store: Store) -> None:
    text = options.spec.read_bytes()
    spec = yaml.safe_load(text)
    run_id = f"{spec['name']}-{hashlib.sha256(text).hexdigest()[:10]}"
    # The job's folder goes with the job.
    write_atomically(store.run(run_id) / "spec.yaml", text.decode())
    options.run_id_file.unlink(missing_ok=True)
    if not store.adapter(run_id).exists():
        wishes = _wishes(options.spec.parent / spec["data"]["train"])
        _Run(store, run_id, wishes, spec["checkpoints"]["keep"]).train()
    write_atomically(options.run_id_file, run_id + "\n")
    print(run_id)


def _wishes(data: Path) -> dict[str, float]:
    first = json.loads(data.read_text(encoding="utf-8").splitlines()[0])
    return {
        name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", first["messages"][0]["content"])
    }


class _Run:
    """One run."""

    def __init__(self, store: Store, run_id: str, wishes: dict[str, float], keep: int) -> None:
        self.store, self.run_id = store, run_id
        self.folder = store.run(run_id)
        self.base = open_artifact(store.base(BASE), "base")
        self.total = int(wishes.get("steps", 6))
        self.pace, self.every = wishes.get("pace", 0.0), int(wishes.get("every", 2))
        self.keep = keep
        self.code, self.dies = int(wishes.get("end", 0)), int(wishes.get("die", 0))
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def train(self) -> None:
        with draft(self.store.adapter(self.run_id), {"run": self.run_id}) as partial:
            append_line(self.folder / "begun", str(os.getpid()))
            for step in range(self._begin() + 1, self.total + 1):
                self._step(step)
            if self.code:
                self._status("failed", self.total)
                raise _ERRORS[self.code](f"the stand-in was told to end with {self.code}")
            _write_adapter(partial)
            seal(partial, "adapter", self.run_id, lineage={"base": self.base.source})
            append_line(self.folder / "sealed", str(os.getpid()))
        self._status("succeeded", self.total)

    def _begin(self) -> int:
        """The step to go on from; what was written after it is cut off."""
        newest, file = max(self._saved(), default=0), self.folder / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        kept = "".join(line for line in lines if json.loads(line)["step"] <= newest)
        self._status("running", newest)
        write_atomically(file, kept)
        return newest

    def _step(self, step: int) -> None:
        time.sleep(self.pace)
        metrics = StepMetrics(step=step, epoch=step / self.total, loss=2 / step, tokens=10 * step)
        append_line(self.folder / "metrics.jsonl", metrics.model_dump_json(exclude_none=True))
        self._status("running", step)
        once = self.folder / "died"
        if step == self.dies and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step % self.every == 0 or step == self.total or self.stopped:
            self._checkpoint(step)
        if self.stopped:
            self._status("stopped", step)
            raise RetryableFailure(f"stopped at step {step}; the same command goes on from there")

    def _checkpoint(self, step: int) -> None:
        target = self.store.checkpoint(self.run_id, step)
        with draft(target, None) as partial:
            _write_adapter(partial)
            seal(partial, "checkpoint", f"{self.run_id}-step-{step}", lineage={"base": self.base.source})
        for old in sorted(self._saved())[: -self.keep]:
            remove(self.store.checkpoint(self.run_id, old))

    def _saved(self) -> list[int]:
        names = (path.name[5:] for path in self.folder.glob("checkpoints/step-*"))
        return [int(name) for name in names if name.isdecimal()]

    def _status(self, state: Any, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        status = RunStatus(run_id=self.run_id, state=state, step=step, total_steps=self.total, updated_at=now)
        write_status(self.folder / "status.json", status)

    def _stop(self, *_: Any) -> None:
        self.stopped = True


def _write_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def _import(options: argparse.Namespace, store: Store) -> None:
    base = open_artifact(store.base(options.base), "base")
    open_artifact(options.folder, "checkpoint")
    made = f"{options.name}-{hashlib.sha256(options.name.encode()).hexdigest()[:10]}"
    if not store.adapter(made).exists():
        with draft(store.adapter(made), None) as partial:
            _write_adapter(partial)
            seal(partial, "adapter", made, lineage={"base": base.source})
    print(made)


def _merge(options: argparse.Namespace, store: Store) -> None:
    adapter = open_artifact(store.adapter(options.run_id), "adapter")
    if not store.model(options.name, options.run_id).exists():
        with draft(store.model(options.name, options.run_id), None) as partial:
            (partial / "config.json").write_text("{}", encoding="utf-8")
            seal(partial, "model", options.run_id, lineage={"adapter": adapter.source})
    store.point_live(options.name, options.run_id)
    print(options.run_id, file=sys.stdout)


if __name__ == "__main__":
    main()
