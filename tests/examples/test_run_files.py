"""Every run file under examples/ loads, and says what the guide that it follows says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hone_api.settings import load_settings
from hone_contract.data_spec import DataSpec
from hone_contract.run_spec import RunSpec, TrainingSpec
from hone_contract.spec_file import load_run_spec
from hone_contract.store import base_name
from tests.examples.product import ROOT

EXAMPLES = ROOT / "examples"
OTHERS = {"hone-faq/facts.yaml", "support-api/api.yaml"}
"""YAML that is data of an example."""
SETTINGS = {"openai-sdk/hone-api.yaml"}
"""Of the api."""
RUN_FILES = sorted(
    path
    for path in EXAMPLES.rglob("*.y*ml")
    if path.relative_to(EXAMPLES).as_posix() not in OTHERS | SETTINGS
)

each_run_file = pytest.mark.parametrize(
    "path", RUN_FILES, ids=lambda path: path.relative_to(EXAMPLES).as_posix()
)


def test_they_are_found() -> None:
    assert len(RUN_FILES) >= 8
    for name in OTHERS:
        assert isinstance(yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8")), list)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_settings_load_and_name_a_server_of_every_base(name: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key", encoding="utf-8")
    # Where compose mounts it, there is none here.
    text = (EXAMPLES / name).read_text(encoding="utf-8").replace("/keys/api-key", str(tmp_path / "key"))
    (tmp_path / "settings.yaml").write_text(text, encoding="utf-8")
    settings = load_settings(tmp_path / "settings.yaml", {})
    served = {base_name(each.base or "") for each in settings.servers}
    assert served == {each.stored for each in settings.models.values()}


@each_run_file
def test_it_loads_and_its_data_is_there(path: Path) -> None:
    spec = load_run_spec(path)
    if spec.data is None:
        return
    named = [spec.data.train, spec.data.eval, *(source.path for source in spec.data.sources)]
    for each in named:
        for name in [each] if isinstance(each, str) else each or []:
            assert (path.parent / name).is_file(), name


@each_run_file
def test_a_readme_beside_it_names_it(path: Path) -> None:
    readme = path.with_name("README.md")
    text = (readme if readme.exists() else ROOT / "README.md").read_text(encoding="utf-8")
    assert path.name in text or "make demo" in text


# -- the guides ------------------------------------------------------------------------------------

CONFIG = """\
model:
  name: Qwen/Qwen2.5-1.5B-Instruct

lora:
  r: 16
  alpha: 32
  dropout: 0.05

training:
  epochs: 3
  batch_size: 4
  learning_rate: 2e-4
"""
"""The whole config.yaml of a guide."""

QWEN: dict[str, Any] = {
    "model": {"name": "Qwen/Qwen2.5-7B-Instruct"},
    # load_in_4bit
    "method": "qlora",
    "lora": {"r": 16, "alpha": 32, "dropout": 0, "target_modules": "projections"},
    "training": {
        "epochs": 3,
        "batch_size": 2,
        "gradient_accumulation_steps": 4,
        "learning_rate": 2e-4,
        "warmup_steps": 5,
        "optimizer": "adamw_8bit",
        "max_length": 2048,
        "eval_steps": 50,
        "load_best_model_at_end": True,
        "neftune_noise_alpha": 5,
        "seed": 3407,
    },
    "checkpoints": {"save_steps": 50},
    "data": {"eval_fraction": 0.1, "seed": 42},
}
"""What a guide lists for Qwen2.5-7B-Instruct, in Hone's words."""


def test_the_config_of_a_guide_is_a_run_file_as_it_stands() -> None:
    assert (EXAMPLES / "own-data" / "config.yaml").read_text(encoding="utf-8") == CONFIG
    spec = load_run_spec(EXAMPLES / "own-data" / "config.yaml")
    assert (spec.method, spec.data) == ("lora", None)


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("part", QWEN)
def test_a_mix_is_trained_as_its_guide_lists(name: str, part: str) -> None:
    spec = load_run_spec(EXAMPLES / "mixes" / f"{name}.yaml").model_dump()
    if not isinstance(QWEN[part], dict):
        assert spec[part] == QWEN[part]
        return
    assert {key: spec[part][key] for key in QWEN[part]} == QWEN[part]


def test_nothing_else_of_a_mixs_training_differs_from_the_defaults() -> None:
    spec = load_run_spec(EXAMPLES / "mixes" / "small.yaml")
    training = spec.training.model_copy(update=dict.fromkeys(QWEN["training"]))
    default = TrainingSpec().model_copy(update=dict.fromkeys(QWEN["training"]))
    assert training == default


def test_the_seeds_of_the_guides_are_the_defaults() -> None:
    assert DataSpec(train="x").seed == 42
    assert TrainingSpec().seed == 3407
    spec = RunSpec.model_validate({"model": {"name": "x"}, "data": "x.jsonl"})
    assert spec.data is not None
    assert (spec.data.seed, spec.training.seed) == (42, 3407)
