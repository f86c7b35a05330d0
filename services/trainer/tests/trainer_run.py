"""One run by the real command, as test_train looks at it."""

from dataclasses import dataclass
from pathlib import Path

from trainer_cli import Outcome, run_trainer
from trainer_hub import serving
from trainer_tiny import HUB_NAME, questions, write_lines

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.store import Store
from hone_trainer.base import import_base, locate

SPEC = f"""\
model:    {{name: {HUB_NAME}}}
name:     sky
lora:     {{r: 4, alpha: 8, dropout: 0.05}}
training: {{epochs: 4, batch_size: 4, learning_rate: 1e-2}}
"""
COMMAND = ["train", "run.yaml", "--data", "data.jsonl", "--run-id-file", "run-id"]
RECORDS, HELD_OUT, EPOCHS, BATCH = 24, 2, 4, 4


@dataclass(frozen=True)
class Run:
    """What the command did in its folder."""

    folder: Path
    base: Artifact
    outcome: Outcome
    asked: list[tuple[str, str | None]]
    """What it asked the Hub."""

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def id(self) -> str:
        return self.outcome.out.strip()

    @property
    def adapter(self) -> Artifact:
        return open_artifact(self.store.adapter(self.id), "adapter", digests=True)

    @property
    def diary(self) -> Path:
        return self.store.run(self.id)


def train_by_command(folder: Path, model: Path) -> Run:
    """`hone-trainer train` with a base that was imported by hand, while a Hub could be asked."""
    base = import_base(locate(str(model), None, HUB_NAME), Store(folder / "store"))
    (folder / "run.yaml").write_text(SPEC, encoding="utf-8")
    write_lines(folder / "data.jsonl", questions(RECORDS))
    with serving() as hub:
        outcome = run_trainer(folder, *COMMAND, **hub.environment)
    assert outcome.code == 0, outcome.err
    return Run(folder, base, outcome, hub.asked)
