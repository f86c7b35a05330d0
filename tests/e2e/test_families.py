"""Merged models of every family load in real vLLM, which gives the logprobs that the merger recorded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from merger_families import EXPERTS, family_folder, variant_folder
from merger_tiny import seal_base

from hone_contract.events import Reporter
from hone_contract.probes import read_probes
from hone_contract.store import Store
from hone_merger.imported import import_adapter
from hone_merger.merge import merge
from hone_merger.plan import make_plan

pytestmark = pytest.mark.chain

# vLLM's attention on CPUs wants heads of at least 32.
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "moe_intermediate_size": 32,
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("Llama", {}, {"use_dora": True, "bias": "all"}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}, {"target_modules": ["q_proj", "embed_tokens"]}),
    "mistral": ("Mistral", {}, {"modules_to_save": ["lm_head", "embed_tokens"], "use_rslora": True}),
    "qwen3-moe": ("Qwen3-MoE", {}, {"target_parameters": EXPERTS}),
    "mixtral": ("Mixtral", {}, {"target_parameters": EXPERTS}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    store = Store(folder / "store")
    made = {}
    for name, (family, config, lora) in CASES.items():
        plain = family_folder(folder / f"{name}-base", family, torch.bfloat16, **{**SHAPE, **config})
        base = seal_base(plain, store, name)
        adapter = import_adapter(variant_folder(folder / name, plain, **lora), base, None, store)
        made[name] = merge(make_plan(store, adapter.manifest.id, None), store, Reporter("merger")).path
    return made


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> dict[str, list[list[float]]]:
    script = str(Path(__file__).with_name("vllm_logprobs.py"))
    command = [sys.executable, script, *map(str, models.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    return dict(zip(models, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_vllm_gives_the_recorded_logprobs(
    models: dict[str, Path], served: dict[str, list[list[float]]], name: str
) -> None:
    probes = read_probes(models[name]).probes
    assert len(probes) == len(served[name]) == 8
    for probe, said in zip(probes, served[name], strict=True):
        assert said == pytest.approx(probe.merged, abs=2e-3)
    moved = [abs(a - b) for probe in probes for a, b in zip(probe.merged or [], probe.base, strict=True)]
    assert sum(moved) / len(moved) > 0.02
