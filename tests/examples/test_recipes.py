"""The run files that follow a guide are trained for real, each on a tiny model of its own architecture.

The same file, with only the base, the data, and what makes it long replaced: so what is left to go wrong
with seven billion parameters is their number.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.events import StepMetrics
from hone_contract.probes import read_probes
from hone_contract.run_spec import RunSpec
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.plan import make_plan
from hone_trainer.train import train
from hone_trainer.training.lora import PROJECTIONS
from tests.examples.product import ROOT
from tests.examples.tiny_bases import WINDOW, llama, mistral, qwen2

pytestmark = pytest.mark.chain

EXAMPLES, GUIDES = ROOT / "examples", Path(__file__).parent / "guides"
STEPS, RECORDS, HELD = 2, 12, 2


# -- a few records of each form --------------------------------------------------------------------


def _own_files(folder: Path, file: Path) -> None:
    """The beginnings of the files that the spec names, under their names."""
    data = load_run_spec(file).data
    assert data is not None and isinstance(data.train, str)
    for name, count in ((data.train, RECORDS), (data.eval, HELD)):
        if isinstance(name, str):
            lines = (file.parent / name).read_bytes().splitlines(keepends=True)
            (folder / name).write_bytes(b"".join(lines[:count]))


def _reports(folder: Path) -> Path:
    """One file as a mix becomes: lines with instruction, input and output."""
    records = json.loads((EXAMPLES / "mixes" / "my_dataset.json").read_text(encoding="utf-8"))[:RECORDS]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "mixed_finetune_dataset.jsonl").write_text(lines, encoding="utf-8")
    return folder / "mixed_finetune_dataset.jsonl"


def _both_forms(folder: Path) -> Path:
    """A guide's record of Alpaca's form and its record of ShareGPT's, each with others like it."""
    alpaca, sharegpt = (json.loads((GUIDES / f"{name}.json").read_bytes()) for name in ("alpaca", "sharegpt"))
    more = [{**alpaca, "input": f"{alpaca['input']} {number}"} for number in range(RECORDS // 2 - 1)]
    asked, answered = sharegpt["conversations"]
    more += [
        {"conversations": [{**asked, "value": f"{asked['value']} {number}"}, answered]}
        for number in range(RECORDS // 2 - 1)
    ]
    text = json.dumps([alpaca, sharegpt, *more], ensure_ascii=False)
    (folder / "my_data.json").write_text(text, encoding="utf-8")
    return folder / "my_data.json"


# -- the recipes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A run file, and what stands in for what a test cannot have."""

    file: str
    base: Callable[[Path], Path]
    other_data: Callable[[Path], Path] | None = None
    """Writes what `--data` names. None: the spec's own files, shortened."""
    training: dict[str, Any] = field(default_factory=dict)

    def train(self, folder: Path) -> Artifact:
        file, base, data = EXAMPLES / self.file, self.base(folder / "tiny"), None
        if self.other_data is None:
            _own_files(folder, file)
        else:
            data = self.other_data(folder)
        spec = load_run_spec(file).model_dump(mode="json", exclude_unset=True)
        spec["model"]["name"] = str(base)
        spec["training"] |= {"max_steps": STEPS, **self.training}
        (folder / "run.json").write_text(json.dumps(spec), encoding="utf-8")
        store = Store(folder / "store")
        return train(make_plan(folder / "run.json", data, store), store)

    @property
    def spec(self) -> RunSpec:
        return load_run_spec(EXAMPLES / self.file)


# A tiny tokenizer writes three times the tokens of a real one.
_LONG = {"max_length": 4096}
RECIPES = {
    "mistral": Recipe("fashion-style/run-mistral-7b.yaml", mistral, training=_LONG),
    "qwen2.5": Recipe("mixes/small.yaml", partial(qwen2, tied=False), _reports),
    "config": Recipe("own-data/config.yaml", partial(qwen2, tied=True), _both_forms),
    "qwen2": Recipe("support-api/run-qwen2-7b.yaml", partial(qwen2, tied=False), training=_LONG),
    "llama": Recipe("fashion-style/run.yaml", llama, training=_LONG),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_to_a_sealed_adapter_with_probes(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    made = recipe.train(tmp_path)
    adapter = open_artifact(made.path, "adapter", digests=True)
    _assert_is_of_the_recipe(adapter, recipe.spec)
    _assert_was_trained(tmp_path / "store" / "runs" / adapter.manifest.id, recipe.spec)
    assert math.isfinite(adapter.manifest.metrics["eval_loss_after"])
    probes = read_probes(adapter.path).probes
    assert probes
    for probe in probes:
        assert len(probe.adapter) == len(probe.base) > 0
        assert all(map(math.isfinite, [*probe.adapter, *probe.base]))
        assert probe.adapter != probe.base
    if name == "mistral":
        _assert_looks_back_no_further_than_its_window(tmp_path)


def test_the_projections_are_the_seven_that_guides_name() -> None:
    assert PROJECTIONS == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _assert_is_of_the_recipe(adapter: Artifact, spec: RunSpec) -> None:
    config = json.loads((adapter.path / "adapter_config.json").read_bytes())
    assert (config["r"], config["lora_alpha"]) == (spec.lora.r, spec.lora.alpha)
    assert config["lora_dropout"] == spec.lora.dropout
    # All the linear layers of these architectures are the seven projections.
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == set(PROJECTIONS)
    with safe_open(adapter.path / "adapter_model.safetensors", "pt") as file:
        learned = [file.get_tensor(name) for name in file.keys() if ".lora_B." in name]
    assert len(learned) == 2 * len(PROJECTIONS)
    assert all(each.abs().sum() > 0 for each in learned)


def _assert_was_trained(run: Path, spec: RunSpec) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [each.loss for each in map(StepMetrics.model_validate_json, lines) if each.loss is not None]
    assert len(losses) == STEPS
    assert all(map(math.isfinite, losses))
    trained = load_run_spec(run / "spec.yaml")
    own = {"model", "data", "training"}
    assert trained.model_dump(exclude=own) == spec.model_dump(exclude=own)


def _assert_looks_back_no_further_than_its_window(folder: Path) -> None:
    [report] = folder.glob("store/datasets/*/report.json")
    assert json.loads(report.read_bytes())["tokens"]["shortest"] > WINDOW
