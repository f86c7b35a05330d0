"""One training step of a planned run, looked at without training on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trainer_tiny import write_lines
from transformers import TrainerCallback

from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_trainer.plan import Plan, make_plan
from hone_trainer.training.assembling import assemble
from hone_trainer.training.checkpoints import Checkpoints
from hone_trainer.training.loop import Loop
from hone_trainer.training.stopping import Stopping
from hone_trainer.training.tokens import tokenise


@dataclass(frozen=True)
class Step:
    """What a step's forward and backward passes came to."""

    loss: float
    gradients: dict[str, torch.Tensor]
    passes: list[dict[str, Any]]
    records: list[int]


def planned(folder: Path, base: Path, spec: str, lines: list[str]) -> tuple[Plan, Store]:
    """A run of `lines`, none of them set aside."""
    write_lines(folder / "data.jsonl", lines)
    data = "{train: data.jsonl, eval_fraction: 0, clean: {duplicates: false}}"
    (folder / "run.yaml").write_text(f"model: {{name: {base}}}\nname: step\ndata: {data}\n{spec}")
    store = Store(folder / "store")
    return make_plan(folder / "run.yaml", None, store), store


def trainer_of(plan: Plan, store: Store) -> Loop:
    reporter = Reporter("trainer")
    checkpoints = Checkpoints(store, plan.run_id, 1, plan.lineage, reporter)
    data = tokenise(plan, store, reporter)
    return assemble(plan, data, checkpoints, reporter, TrainerCallback(), Stopping(), {"report_to": "none"})


def first_step(folder: Path, base: Path, spec: str, lines: list[str]) -> Step:
    """Of the run with that spec. Its adapter's B is not zero, so that every gradient is there."""
    trainer = trainer_of(*planned(folder, base, spec, lines))
    torch.manual_seed(11)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    [item, *_] = trainer.get_train_dataloader()
    count = trainer._get_num_items_in_batch([item], trainer.args.device)
    loss = trainer.training_step(trainer.model, item, count)
    gradients = {
        name: parameter.grad
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }
    return Step(float(loss), gradients, item["passes"], item["records"])
