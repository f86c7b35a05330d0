"""`backend: unsloth`: when it is refused, and what Unsloth is asked for, by a stand-in of it."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trainer_cli import HEAVY, Outcome, refusal, run_trainer
from trainer_tiny import questions, write_lines

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.probes import read_probes
from hone_contract.store import Store

STAND_INS = Path(__file__).with_name("stand_ins")
# A machine that runs the tests may have a GPU.
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
PROJECTIONS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def _write(folder: Path, spec: str, base: Path | str = "some/base") -> None:
    text = f"model: {{name: {base}}}\nbackend: unsloth\n{spec}"
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    write_lines(folder / "data.jsonl", questions(12))


def _train(folder: Path, **environment: str) -> Outcome:
    return run_trainer(folder, "train", "run.yaml", "--data", "data.jsonl", **NO_GPU, **environment)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is not None, reason="Unsloth is installed here")
def test_without_unsloth_it_says_what_to_install_before_anything_is_loaded(tmp_path: Path) -> None:
    _write(tmp_path, "")
    told = refusal(_train(tmp_path), 78)
    assert "unsloth is not installed here; run `pip install 'hone-trainer[unsloth]'`" in told
    assert "or leave `backend` out" in told
    assert not (tmp_path / "store").exists()


@pytest.mark.chain
def test_without_a_gpu_it_is_refused_before_unsloth_is_imported(tmp_path: Path) -> None:
    _write(tmp_path, "")
    done = _train(tmp_path, PYTHONPATH=str(STAND_INS))
    assert (done.code, done.out) == (78, "")
    assert "backend: unsloth needs a GPU, and this process sees none" in done.err
    assert "Traceback" not in done.err
    assert not done.imported & (HEAVY - {"torch"} | {"unsloth"})
    assert not (tmp_path / "store").exists()


TWO = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("spec", "environment", "told"),
    [
        ("training: {packing: true}\n", {}, "training.packing: true is not for backend: unsloth"),
        (
            "",
            TWO,
            "trains in one process on one GPU, not in 2",
        ),
        ("method: full\n", {}, "backend: unsloth is for method: lora and qlora"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_loaded(
    tmp_path: Path, spec: str, environment: dict[str, str], told: str
) -> None:
    _write(tmp_path, spec)
    assert told in refusal(_train(tmp_path, PYTHONPATH=str(STAND_INS), **environment), 78)


# -- a run, with the stand-in ----------------------------------------------------------------------

SPEC = """\
name: sky
method: qlora
lora: {r: 4, alpha: 8, dropout: 0.1, target_modules: projections, use_rslora: true, rank_pattern: {q_proj: 2}}
training: {max_steps: 2, batch_size: 2, max_length: 128, seed: 5}
"""


@dataclass(frozen=True)
class Run:
    """What the command made, and what the stand-in was called with."""

    adapter: Artifact
    base: Path
    calls: list[dict[str, Any]]

    def arguments(self, call: str) -> dict[str, Any]:
        [found] = [each for each in self.calls if each["call"] == call]
        return {name: value for name, value in found.items() if name not in ("call", "imported_before")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Run:
    folder = tmp_path_factory.mktemp("unsloth")
    _write(folder, SPEC, llama_folder)
    record = folder / "record.jsonl"
    environment = {**os.environ, **NO_GPU, "PYTHONPATH": str(STAND_INS), "STAND_IN_RECORD": str(record)}
    command = [sys.executable, str(STAND_INS / "with_gpu.py"), "train", "run.yaml", "--data", "data.jsonl"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    store = Store(folder / "store")
    calls = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    adapter = open_artifact(store.adapter(done.stdout.strip()), "adapter", digests=True)
    return Run(adapter, store.base(llama_folder.name), calls)


@pytest.mark.chain
def test_it_is_imported_before_what_it_changes(run: Run) -> None:
    assert [each["imported_before"] for each in run.calls] == [[], []]


@pytest.mark.chain
def test_the_base_of_the_store_is_loaded_as_the_spec_says(run: Run) -> None:
    assert run.arguments("from_pretrained") == {
        "model_name": str(run.base),
        "use_exact_model_name": True,
        "max_seq_length": 128,
        # By this machine's hardware.
        "dtype": "torch.float32",
        "load_in_4bit": True,
        "use_gradient_checkpointing": "unsloth",
        "random_state": 5,
    }


@pytest.mark.chain
def test_the_adapter_is_the_specs(run: Run) -> None:
    assert run.arguments("get_peft_model") == {
        "r": 4,
        "target_modules": PROJECTIONS,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "bias": "none",
        "use_gradient_checkpointing": "unsloth",
        "random_state": 5,
        "max_seq_length": 128,
        "use_rslora": True,
        "use_dora": False,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {},
        "modules_to_save": None,
    }


@pytest.mark.chain
def test_what_it_trains_is_sealed_as_any_other_adapter(run: Run) -> None:
    assert run.adapter.manifest.id.startswith("sky-")
    config = json.loads((run.adapter.path / "adapter_config.json").read_bytes())
    assert (config["r"], config["use_rslora"]) == (4, True)
    assert config["base_model_name_or_path"] == run.base.name
    assert read_probes(run.adapter.path).probes
