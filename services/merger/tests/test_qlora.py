"""Adapters of a base in 4 bits: they are added to what bitsandbytes leaves of it, where that is nearer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from merger_cli import refusal, run_merger
from merger_families import FAMILIES, family_folder
from merger_tiny import HUB_NAME, chat_tokenizer, logprobs, peft_folder, qwen_folder, seal_base
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.events import Reporter
from hone_contract.probes import read_probes, write_probes
from hone_contract.store import Store
from hone_merger.content import plan_content
from hone_merger.fusing.four_bits import parameters_in_4_bits, through_4_bits
from hone_merger.fusing.layout import plan_layout
from hone_merger.imported import import_adapter
from hone_merger.merge import merge
from hone_merger.plan import BaseWeights, make_plan
from hone_merger.qlora import score_planned

# Each quantizes a model and merges into it.
pytestmark = pytest.mark.chain

NF4 = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)


def gpt2_folder(folder: Path) -> Path:
    """Its layers are transformers' Conv1D, whose weights lie the other way round."""
    torch.manual_seed(5)
    config = GPT2Config(vocab_size=len(chat_tokenizer()), n_embd=64, n_layer=2, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def in_4_bits(folder: Path) -> Any:
    """The base as transformers loads it for QLoRA, on the CPU; exact, as the trainer has it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=NF4).eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def whole(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", [*FAMILIES, "GPT-2"])
def test_what_is_rounded_and_how_is_what_transformers_does(tmp_path: Path, family: str) -> None:
    base = tmp_path / "base"
    gpt2_folder(base) if family == "GPT-2" else family_folder(base, family, torch.bfloat16)
    plain, loaded = whole(base), in_4_bits(base)
    quantised = {name: module for name, module in loaded.named_modules() if isinstance(module, Linear4bit)}
    rounding = parameters_in_4_bits(plain)
    assert rounding.keys() == {f"{name}.weight" for name in quantised}
    assert "lm_head.weight" not in rounding
    for name, module in quantised.items():
        weights = plain.get_submodule(name).weight.detach()
        left = dequantize_4bit(module.weight.data, module.weight.quant_state)
        left = left.T if family == "GPT-2" else left
        assert torch.equal(rounding[f"{name}.weight"](weights), left)
        assert not torch.equal(weights, left)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_is_added_to_what_4_bits_leave_and_rounded_once(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    base = family_folder(tmp_path / "base", family, dtype)
    adapter = peft_folder(tmp_path / "adapter", base, target_modules=["q_proj", "o_proj"])
    model = whole(base)
    for name, rounding in parameters_in_4_bits(model).items():
        weights = model.get_parameter(name)
        weights.data = rounding(weights.data)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    layout = plan_layout(base, adapter, dequantized=True)
    assert all(output.dtype is dtype for output in layout.outputs)
    written = {output.name: output for output in layout.outputs}
    compared = [name for name in merged if name in written]
    assert len(compared) > 10
    for name in compared:
        assert torch.equal(written[name].read(), merged[name].to(dtype)), name


def test_what_is_planned_says_what_the_model_in_4_bits_says(base: Artifact, adapter: Artifact) -> None:
    probes = read_probes(adapter.path)
    layout = plan_layout(base.path, adapter.path, torch.float32, dequantized=True)
    loaded = PeftModel.from_pretrained(in_4_bits(base.path), str(adapter.path)).eval()
    for probe, scores in zip(probes.probes, score_planned(base.path, layout, probes), strict=True):
        said = logprobs(loaded, probe.prompt_token_ids, probe.continuation_token_ids)
        assert scores == pytest.approx(said, abs=1e-3)
        assert scores != pytest.approx(probe.adapter, abs=1e-3)


@pytest.fixture
def imported(store: Store, tmp_path: Path) -> Artifact:
    """An adapter that was trained in 4 bits elsewhere."""
    qwen = qwen_folder(tmp_path / "qwen")
    sealed = seal_base(qwen, store, HUB_NAME)
    return import_adapter(peft_folder(tmp_path / "sky-blue", qwen), sealed, None, store, qlora=True)


def merged(store: Store, run_id: str, base_weights: BaseWeights | None = None) -> Artifact:
    return merge(make_plan(store, run_id, "sky", base_weights=base_weights), store, Reporter("merger"))


def report_of(model: Artifact) -> Any:
    return json.loads((model.path / "merge_report.json").read_text(encoding="utf-8"))


def weights_of(model: Artifact) -> bytes:
    return (model.path / "model.safetensors").read_bytes()


def test_the_nearer_base_is_taken_and_both_distances_are_told(store: Store, imported: Artifact) -> None:
    auto = merged(store, imported.manifest.id)
    assert make_plan(store, imported.manifest.id, "sky", base_weights="auto").version == auto.path.name
    told = report_of(auto)["weights"]
    distances = told["mean_delta_from_trained"]
    assert told["base_weights"] == "dequantized"
    assert distances["dequantized"] < 0.2 * distances["original"]
    assert auto.manifest.metrics["mean_delta_from_adapter"] == pytest.approx(
        distances["dequantized"], rel=0.01
    )
    assert "quantization_config" not in (auto.path / "config.json").read_text(encoding="utf-8")
    asked = {name: merged(store, imported.manifest.id, name) for name in ("original", "dequantized")}  # type: ignore[arg-type]
    assert {name: model.path.name for name, model in asked.items()} == {
        name: f"{imported.manifest.id}-{name}" for name in asked
    }
    assert weights_of(auto) == weights_of(asked["dequantized"]) != weights_of(asked["original"])
    assert report_of(asked["original"])["weights"]["base_weights"] == "original"


def test_the_original_is_taken_where_it_is_nearer(store: Store, imported: Artifact) -> None:
    probes = read_probes(imported.path)
    trained = [probe.model_copy(update={"trained": probe.adapter}) for probe in probes.probes]
    with draft(store.adapter("near-0123456789"), {}) as partial:
        for path in imported.path.iterdir():
            (partial / path.name).write_bytes(path.read_bytes())
        write_probes(partial, probes.model_copy(update={"probes": trained}))
        seal(partial, "adapter", "near-0123456789", lineage=imported.manifest.lineage)
    told = report_of(merged(store, "near-0123456789"))["weights"]
    assert told["base_weights"] == "original"
    assert told["mean_delta_from_trained"]["original"] < told["mean_delta_from_trained"]["dequantized"]


def test_a_measurement_that_comes_out_otherwise_is_another_draft(
    store: Store, imported: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(store, imported.manifest.id, "sky")
    first = plan_content(plan, Reporter("merger")).measured
    monkeypatch.setattr("hone_merger.qlora._distance", lambda *_: next(found))
    found = iter([0.1, float("nan")])
    assert first != plan_content(plan, Reporter("merger")).measured == {"dequantized": False}


def test_4_bits_for_an_adapter_that_was_trained_without_are_refused(
    tmp_path: Path, filled: Store, adapter: Artifact
) -> None:
    outcome = run_merger(tmp_path, "merge", adapter.manifest.id, "--base-weights", "dequantized")
    assert "--qlora" in refusal(outcome, 78)
    for name in ("original", "auto"):
        plan = make_plan(filled, adapter.manifest.id, None, base_weights=name)
        assert (plan.version, plan.base_weights) == (adapter.manifest.id, "original")


def test_an_import_in_4_bits_is_another_adapter(tmp_path: Path, store: Store, imported: Artifact) -> None:
    base = open_artifact(store.base(HUB_NAME), "base")
    plain = import_adapter(tmp_path / "sky-blue", base, None, store)
    assert plain.manifest.id != imported.manifest.id
    assert not read_probes(plain.path).trained_in_4_bits
    assert read_probes(imported.path).trained_in_4_bits


def test_blocks_are_scaled_by_the_whole_tensor() -> None:
    """Why a tensor is not cut into rows before: the scales are rounded by the mean of all."""
    weights = torch.randn(512, 256, generator=torch.Generator().manual_seed(6))
    halves = torch.cat([through_4_bits(half) for half in weights.split(256)])
    assert not torch.equal(through_4_bits(weights), halves)
