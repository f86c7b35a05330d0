"""The parts of an estimate, each against the thing itself: weights, adapters, what autograd keeps, passes."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from trainer_tiny import save_base
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hone_contract.errors import BadInput
from hone_contract.run_spec import LoraSpec, RunSpec
from hone_trainer.data.report import Lengths
from hone_trainer.sizing.machine import cgroup_limits
from hone_trainer.sizing.memory import Setting, memory, numbers_kept, numbers_of_dora
from hone_trainer.sizing.shapes import Shapes, read_shapes
from hone_trainer.sizing.trainable import adapters, everything
from hone_trainer.sizing.workload import Workload, workload
from hone_trainer.training import attention
from hone_trainer.training.batches import Steps, packed_passes, padded_passes
from hone_trainer.training.collating import PairCollator
from hone_trainer.training.lora import lora_config
from hone_trainer.training.lora_layers import speed_up
from hone_trainer.training.tokens import TokenisedPairs, TokenisedRecords

_SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_BASES: dict[str, Any] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
}


def make(name: str) -> Any:
    """A model with the attention that runs train with."""
    kind, config, more = _BASES[name]
    torch.manual_seed(0)
    return kind(config(**_SIZES, **more, attn_implementation=attention.NAME))


@pytest.fixture(scope="module", params=_BASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str) -> Any:
    return make(name)


@pytest.fixture(scope="module")
def shapes(name: str, tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    """As read from its files, of which there are several."""
    folder = tmp_path_factory.mktemp(name)
    make(name).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return read_shapes(folder)


# -- shapes ----------------------------------------------------------------------------------------


def test_the_headers_tell_every_parameter(model: Any, shapes: Shapes) -> None:
    assert shapes.parameters == sum(each.numel() for each in model.parameters())
    assert (shapes.vocabulary, shapes.hidden) == (_SIZES["vocab_size"], _SIZES["hidden_size"])
    linear = {name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    assert {each.name for each in shapes.linears} == linear - {"lm_head"}


def test_a_head_that_is_stored_though_it_is_tied_counts_once(tmp_path: Path) -> None:
    untied = make("llama")
    untied.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    )
    head = _SIZES["vocab_size"] * _SIZES["hidden_size"]
    assert read_shapes(tmp_path).parameters == sum(each.numel() for each in untied.parameters()) - head


def test_weights_in_a_second_layout_do_not_count(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = save_base(tmp_path, make("mistral"), tokenizer)
    before = read_shapes(folder)
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert read_shapes(folder) == before


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{broken}", b"\xff" * 64])
def test_a_header_that_cannot_be_read_is_bad_input(tmp_path: Path, content: bytes) -> None:
    make("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=r"model\.safetensors is no safetensors file"):
        read_shapes(tmp_path)


def test_an_index_that_names_no_weights_is_bad_input(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path, max_shard_size="60KB")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BadInput, match="names no weights"):
        read_shapes(tmp_path)


def test_a_base_of_no_known_form_is_counted_as_far_as_it_can_be() -> None:
    """Nobody is refused a training because it could not be estimated."""
    shapes = Shapes({"wave.kernel": (4, 3, 2)}, {})
    found = memory(shapes, everything(shapes), Setting("full", on_gpu=False, number=4, tokens=10))
    assert (found.weights, found.activations) == (4 * 24, 0)


# -- what is trained -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lora",
    [
        LoraSpec(),
        LoraSpec(r=5, target_modules="projections"),
        LoraSpec(target_modules=["q_proj", "mlp.down_proj"]),
        LoraSpec(target_modules=["layers.1.self_attn.v_proj"], use_rslora=True),
        LoraSpec(rank_pattern={"q_proj": 32, r"layers\.[12]\.mlp\.up_proj": 3}),
        LoraSpec(use_dora=True),
        LoraSpec(modules_to_save=["layers.0.mlp.gate_proj", "norm"], target_modules=["k_proj"]),
        LoraSpec(modules_to_save=["layers.2.self_attn"], target_modules=["down_proj"]),
    ],
    ids=lambda lora: str(lora.model_dump(exclude_defaults=True)),
)
def test_an_adapter_is_counted_as_peft_makes_it(model: Any, shapes: Shapes, lora: LoraSpec) -> None:
    adapted = get_peft_model(model, lora_config(model, lora))
    assert adapters(shapes, lora).count == adapted.get_nb_trainable_parameters()[0]


def test_embeddings_can_be_adapted_and_a_head_be_learned_whole(tmp_path: Path) -> None:
    model = make("llama")
    model.save_pretrained(tmp_path)
    lora = LoraSpec(target_modules=["embed_tokens"], modules_to_save=["lm_head"], r=4)
    adapted = get_peft_model(model, lora_config(model, lora))
    assert adapters(read_shapes(tmp_path), lora).count == adapted.get_nb_trainable_parameters()[0]


# -- activations -----------------------------------------------------------------------------------


def kept_a_layer(model: Any, tokens: int = 64) -> int:
    """Bytes that autograd keeps of the second decoder layer, beside weights."""
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    layer = next(each for name, each in model.named_modules() if name.endswith("layers.1"))
    found: dict[int, torch.Tensor] = {}
    inside: list[bool] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if inside and place not in own:
            found[place] = tensor
        return tensor

    layer.register_forward_pre_hook(lambda *_: inside.append(True))
    layer.register_forward_hook(lambda *_: inside.clear())
    lengths = [tokens // 2, tokens // 4, tokens // 4]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ids = torch.arange(tokens)[None] % 300
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(
            input_ids=ids, position_ids=positions, record_lengths=lengths, use_cache=False, logits_to_keep=1
        )
    return sum(each.untyped_storage().nbytes() for each in found.values())


@pytest.mark.parametrize(
    "lora",
    [
        LoraSpec(),
        LoraSpec(dropout=0.1),
        LoraSpec(use_dora=True),
        LoraSpec(target_modules=["q_proj", "v_proj"]),
        None,
    ],
    ids=["lora", "dropout", "dora", "two of seven", "full"],
)
def test_the_activations_are_those_that_autograd_keeps(
    model: Any, shapes: Shapes, lora: LoraSpec | None
) -> None:
    trainable = everything(shapes) if lora is None else adapters(shapes, lora)
    setting = Setting(
        method="full" if lora is None else "lora",
        on_gpu=False,
        number=4,
        tokens=64,
        dropout=lora is not None and lora.dropout > 0,
        dora=lora is not None and lora.use_dora,
    )
    block = [each for each in shapes.linears if each.block == "1"]
    expected = 64 * numbers_kept(block, trainable.adapted, shapes, setting)
    if setting.dora:
        expected += numbers_of_dora(block, trainable.adapted)
    # What is left out: a number a head, two norms', and the angles of the rotation, which all layers share.
    expected += 64 * (_SIZES["num_attention_heads"] + 2 + 2 * _SIZES["head_dim"])
    if lora is not None:
        model = get_peft_model(model, lora_config(model, lora))
        speed_up(model)
    assert kept_a_layer(model.train()) == 4 * expected


@pytest.mark.parametrize("lora", [LoraSpec(), None], ids=["lora", "full"])
def test_the_activations_in_16_bits_are_those_that_autocast_keeps(
    model: Any, shapes: Shapes, lora: LoraSpec | None
) -> None:
    """As on a GPU: the base in bfloat16 unless it is trained, what is trained in float32."""
    trainable = everything(shapes) if lora is None else adapters(shapes, lora)
    setting = Setting("full" if lora is None else "lora", on_gpu=True, number=2, tokens=64)
    block = [each for each in shapes.linears if each.block == "1"]
    expected = 2 * 64 * numbers_kept(block, trainable.adapted, shapes, setting)
    if lora is not None:
        model = get_peft_model(model.bfloat16(), lora_config(model, lora))
    multiplied = [
        each
        for name, each in model.named_parameters()
        if each.requires_grad and each.dim() == 2 and ".layers.1." in f".{name}"
    ]
    # A copy of each weight that is trained, in 16 bits, and what is left out, in 32 but for the angles.
    expected += 2 * sum(each.numel() for each in multiplied)
    expected += 64 * 4 * (_SIZES["num_attention_heads"] + 2)
    expected += 64 * 2 * _SIZES["head_dim"] * (4 if lora is None else 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert kept_a_layer(model.train()) == expected


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    shapes = Shapes({**_of_a_layer(0), **_of_a_layer(1), "embed_tokens.weight": (100, 8)}, {})
    setting = Setting("lora", on_gpu=True, number=4, tokens=10)
    trainable = adapters(shapes, LoraSpec(r=2))
    block = [each for each in shapes.linears if each.block == "0"]
    one = numbers_kept(block, trainable.adapted, shapes, setting)
    passing = 3 * 20
    assert memory(shapes, trainable, setting).activations == 4 * 10 * (2 * one + passing)
    kept = memory(shapes, trainable, replace(setting, checkpointing=True)).activations
    assert kept == 4 * 10 * (2 * 8 + one + passing)


def _of_a_layer(number: int) -> dict[str, tuple[int, ...]]:
    return {f"layers.{number}.mlp.up_proj.weight": (20, 8), f"layers.{number}.mlp.down_proj.weight": (8, 20)}


def test_of_a_mixture_only_the_experts_that_see_a_token_keep_something() -> None:
    experts = {
        f"layers.0.mlp.experts.{number}.{name}.weight": shape
        for number in range(8)
        for name, shape in (("gate_proj", (20, 8)), ("up_proj", (20, 8)), ("down_proj", (8, 20)))
    }
    config = {"num_experts": 8, "num_experts_per_tok": 2}
    shapes = Shapes({**experts, "embed_tokens.weight": (100, 8)}, config)
    setting = Setting("full", on_gpu=False, number=4, tokens=10)
    kept = numbers_kept(shapes.linears, everything(shapes).adapted, shapes, setting)
    assert kept == 2 * (2 * 20 + 20 + 8 + 8 + 20) + 2 * 8


# -- steps and passes ------------------------------------------------------------------------------


def planned(
    lengths: list[int], training: dict[str, Any], processes: int = 1, longest_conversation: int | None = None
) -> tuple[RunSpec, Workload]:
    """Of preference pairs, when the longest conversation is told."""
    objective = "sft" if longest_conversation is None else "dpo"
    run = {"model": {"name": "./base"}, "objective": objective, "training": training}
    spec = RunSpec.model_validate(run)
    counted = Lengths("base", lengths, longest_conversation=longest_conversation or max(lengths))
    report = {"train_records": len(lengths), "eval_records": 0, "tokens": counted.to_json()}
    return spec, workload(spec, report, processes)


@pytest.mark.parametrize(
    ("options", "processes", "steps"),
    [
        ({"epochs": 3, "batch_size": 4}, 1, 3 * 26),
        ({"epochs": 0.5, "batch_size": 4, "gradient_accumulation_steps": 2}, 1, 7),
        ({"epochs": 3, "batch_size": 4, "max_steps": 5}, 1, 5),
        ({"epochs": 3, "batch_size": 4}, 2, 3 * 13),
    ],
)
def test_the_steps_are_those_that_the_sampler_gives(
    options: dict[str, Any], processes: int, steps: int
) -> None:
    spec, work = planned([10] * 101, options, processes)
    size = work.records_a_step * processes
    an_epoch = len(Steps(101, size, spec.training.seed, rank=0, world=processes))
    assert work.steps == steps
    assert work.tokens == pytest.approx(1010 * steps / an_epoch, abs=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4, "tokens_per_pass": 1024},
        {"batch_size": 8, "tokens_per_pass": 4096},
        {"batch_size": 2, "gradient_accumulation_steps": 16, "tokens_per_pass": 300},
        {"batch_size": 1, "tokens_per_pass": 16},
        {"batch_size": 4, "tokens_per_pass": 900, "packing": False},
    ],
    ids=str,
)
def test_the_largest_pass_is_foreseen(options: dict[str, Any], seed: int) -> None:
    """Within a tenth of the largest that a run of three epochs then has."""
    draw = random.Random(seed)
    lengths = [round(min(1000, max(16, draw.lognormvariate(4.8, 0.7)))) for _ in range(400)]
    spec, work = planned(lengths, {"epochs": 3, **options})
    assert largest(lengths, spec, work) == pytest.approx(work.largest_pass(spec.training, False), rel=0.1)


def largest(lengths: list[int], spec: RunSpec, work: Workload) -> int:
    """Tokens of the largest pass of a run, padding counted."""
    training, found = spec.training, 0
    most = training.tokens_per_pass or 0
    steps = Steps(len(lengths), work.records_a_step, training.seed)
    for epoch in range(3):
        steps.set_epoch(epoch)
        for records in steps:
            taken = [lengths[record] for record in records]
            if training.packing is False:
                passes = padded_passes(taken, most, training.batch_size)
                found = max([found, *(max(taken[i] for i in one) * len(one) for one in passes)])
            else:
                found = max([found, *(sum(taken[i] for i in one) for one in packed_passes(taken, most))])
    return found


@pytest.mark.parametrize("pairs", [[(20, 900), (700, 30), (40, 50)], [(400, 410), (300, 300), (20, 30)]])
def test_the_largest_pass_of_pairs_is_the_one_that_training_builds(pairs: list[tuple[int, int]]) -> None:
    """Padding makes both conversations of a pair, and of those beside it, as long as the longest."""
    whole = _pass_of(pairs, packed=False)
    assert whole == 3 * _pass_of([max(pairs, key=max)], packed=False)
    options = {"batch_size": 3, "packing": False, "tokens_per_pass": 10_000}
    longest = max(map(max, pairs))
    spec, work = planned([sum(pair) for pair in pairs], options, longest_conversation=longest)
    assert work.largest_pass(spec.training, True) == whole
    packing = spec.training.model_copy(update={"packing": True})
    assert work.longest_alone(packing) == _pass_of([max(pairs, key=sum)], packed=True)


def _pass_of(pairs: list[tuple[int, int]], packed: bool) -> int:
    """Tokens of the one pass that training makes of these."""
    ends = torch.tensor([length for pair in pairs for length in pair]).cumsum(0)
    ids, learned = torch.zeros(int(ends[-1]), dtype=torch.int32), torch.ones(int(ends[-1]), dtype=torch.bool)
    records = TokenisedPairs(TokenisedRecords(ids, learned, ends))
    collator = PairCollator(records, most=10_000, packed=packed, size=len(pairs))
    [one] = collator([records[number] for number in range(len(pairs))])["passes"]
    return int(one["input_ids"].numel())


# -- the machine -----------------------------------------------------------------------------------


def test_the_tightest_limit_of_a_container_counts(tmp_path: Path) -> None:
    for group, limit in (("", "max"), ("pod", "4000000000"), ("pod/train", "9000000000")):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / "memory.max").write_text(limit + "\n")
    (tmp_path / "own").write_text("0::/pod/train\n")
    assert min(cgroup_limits(tmp_path, tmp_path / "own")) == 4_000_000_000


def test_a_container_that_sees_its_own_group_as_the_root_has_its_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "own").write_text("0::/kubepods/unseen/pod\n")
    assert cgroup_limits(tmp_path, tmp_path / "own") == [2_000_000_000]


def test_an_older_system_keeps_the_limit_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "memory" / "docker").mkdir(parents=True)
    (tmp_path / "memory" / "docker" / "memory.limit_in_bytes").write_text("3000000000\n")
    (tmp_path / "own").write_text("5:cpu,cpuacct:/docker\n4:memory:/docker\n0::/\n")
    assert cgroup_limits(tmp_path, tmp_path / "own") == [3_000_000_000]


def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path, tmp_path / "none") == []
