"""A small training by TRL that a diary follows, as the trainer's own loop is one."""

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trainer_tiny import tiny_llama
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from hone_contract.events import Event, Reporter, RunStatus
from hone_trainer.reporting.diary import Diary, begin_diary
from hone_trainer.reporting.exporter import Exporter

EPOCHS, STEPS_AN_EPOCH, LENGTH = 2, 3, 8
SPEC = "model: {name: tiny}\n"
STEPS = EPOCHS * STEPS_AN_EPOCH


class Loop(SFTTrainer):  # type: ignore[misc]
    """Evaluates by itself and tells of it, as the trainer's loop does; each takes `pause` seconds."""

    pause = 0.0

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        time.sleep(self.pause)
        metrics = {"eval_loss": 4.0 - self.state.global_step / 10}
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics=metrics)
        return metrics

    def _save_checkpoint(self, *arguments: Any) -> None:
        time.sleep(self.pause)
        super()._save_checkpoint(*arguments)


def begin(folder: Path) -> Path:
    """The folder of a run that starts."""
    begin_diary(folder / "sky-1", SPEC, None)
    return folder / "sky-1"


def make_loop(
    folder: Path, tokenizer: PreTrainedTokenizerBase, exporter: Exporter | None = None, **arguments: Any
) -> tuple[Loop, Diary]:
    """A loop that evaluates and saves after each epoch, and its diary; records have LENGTH tokens."""
    diary = Diary(folder, Reporter("trainer", folder / "events.jsonl"), exporter)
    records = [[row + 3] * LENGTH for row in range(2 * STEPS_AN_EPOCH)]
    settings: dict[str, Any] = {
        "output_dir": str(folder / "trainer"),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    dataset = Dataset.from_dict({"input_ids": records, "labels": records})
    loop = Loop(
        model=tiny_llama(len(tokenizer)),
        args=SFTConfig(**settings | arguments),
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[diary],
    )
    loop.remove_callback(PrinterCallback)
    return loop, diary


def events_of(folder: Path) -> list[Event]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [Event.model_validate_json(line) for line in lines]


def status_of(folder: Path) -> RunStatus:
    return RunStatus.model_validate_json((folder / "status.json").read_text(encoding="utf-8"))


def checkpoint_of(loop: Loop) -> str:
    """Folder of the checkpoint after the first epoch."""
    return str(Path(loop.args.output_dir) / f"checkpoint-{STEPS_AN_EPOCH}")


def go_on(loop: Loop, tokens: int) -> None:
    """Train from that checkpoint on, in which TRL does not keep how many tokens were seen."""
    loop._total_train_tokens = tokens
    with torch.random.fork_rng():
        loop.train(resume_from_checkpoint=checkpoint_of(loop))
