"""Sealed results of runs that were never trained: their weights are drawn, to differ from the base."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from trainer_tiny import write_lines
from transformers import AutoModelForCausalLM

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.manifest import Source
from hone_contract.spec_file import dump_run_spec, load_run_spec
from hone_contract.store import Store
from hone_trainer.answering.lookup import Found
from hone_trainer.base import import_base, locate
from hone_trainer.plan import prepare_data

RUN = "sky-0123456789"


def sealed_run(
    folder: Path, model: Path, lines: Iterable[str], *, run_id: str = RUN, kind: Any = "adapter", **spec: Any
) -> Found:
    """A run in `folder/store` on these records; further keys of its spec may be given."""
    store = Store(folder / "store")
    base = import_base(locate(str(model), None), store)
    write_lines(folder / "data.jsonl", lines)
    asked = {"model": {"name": str(model)}, "data": {"train": "data.jsonl"}, **spec}
    (folder / "run.json").write_text(json.dumps(asked), encoding="utf-8")
    _, dataset = prepare_data(folder / "run.json", None, store)
    diary = store.run(run_id)
    diary.mkdir(parents=True)
    (diary / "spec.yaml").write_text(dump_run_spec(load_run_spec(folder / "run.json")), encoding="utf-8")
    lineage = {"base": base.source, "dataset": dataset.source}
    return Found(seal_drawn(store, base, lineage, run_id, kind), base)


def seal_drawn(store: Store, base: Artifact, lineage: dict[str, Source], name: str, kind: Any) -> Artifact:
    """An adapter, whole weights, or a model `NAME/VERSION`, of the base with something added."""
    targets = {"adapter": store.adapter, "weights": store.weights}
    target = store.model(*name.split("/")) if kind == "model" else targets[kind](name)
    torch.manual_seed(7)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base.path),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    with draft(target, name) as partial:
        if kind == "adapter":
            model.save_pretrained(partial, save_embedding_layers=False)
            (partial / "README.md").unlink(missing_ok=True)
        else:
            model.merge_and_unload().save_pretrained(partial)
        for path in base.path.iterdir():
            if path.name.startswith(("tokenizer", "chat_template")):
                (partial / path.name).write_bytes(path.read_bytes())
        return seal(partial, kind, target.name, lineage=lineage)


def merge(
    found: Found, store: Store, name: str = "sky", version: str = "1", *, live: bool = True
) -> Artifact:
    """A model merged from the run, which is published if it is to be live."""
    lineage = {found.artifact.manifest.kind: found.artifact.source, "base": found.base.source}
    seal_drawn(store, found.base, lineage, f"{name}/{version}", "model")
    if live:
        store.point_live(name, version)
    return open_artifact(store.model(name, version), "model")
