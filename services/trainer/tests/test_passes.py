"""However records are laid out in passes, the loss and its gradients are the same, and are right."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trainer_step import Step, first_step, planned, trainer_of
from trainer_tiny import SIZES, line, save_base
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Lfm2Config,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from hone_contract.errors import BadConfiguration
from hone_trainer.chat.conversation import IGNORED
from hone_trainer.training import attention
from hone_trainer.training.collating import packed, padded
from hone_trainer.training.tokens import tokenise

pytestmark = pytest.mark.chain

LINES = [
    line(("user", f"What is the colour of thing {number}?" + " really" * (3 * number)), ("assistant", answer))
    for number, answer in enumerate(
        ["Blue.", "The sky is blue.", "Green grass, and a sky of blue.", "The colour of the sky."] * 2
    )
]
ROWS = "training: {batch_size: 8, packing: true, tokens_per_pass: 4096}\n"
SMALL = {"vocab_size": 304, **SIZES}


@pytest.fixture(scope="module")
def one_row(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Step:
    return first_step(tmp_path_factory.mktemp("row"), llama_folder, ROWS, LINES)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ("{batch_size: 1, gradient_accumulation_steps: 8, packing: true, tokens_per_pass: 1}", 8),
        ("{batch_size: 8, packing: false, tokens_per_pass: 4096}", 1),
        ("{batch_size: 1, gradient_accumulation_steps: 8, packing: false}", 8),
        ("{batch_size: 2, gradient_accumulation_steps: 4, packing: false}", 4),
        ("{batch_size: 4, gradient_accumulation_steps: 2, packing: auto, tokens_per_pass: 150}", None),
        ("{batch_size: 8, gradient_checkpointing: true, tokens_per_pass: 4096}", 1),
    ],
)
def test_a_step_is_the_same_however_its_records_are_laid_out(
    one_row: Step, llama_folder: Path, tmp_path: Path, settings: str, passes: int | None
) -> None:
    step = first_step(tmp_path, llama_folder, f"training: {settings}\n", LINES)
    assert len(step.passes) == passes or (passes is None and 1 < len(step.passes) < 8)
    assert sorted(step.records) == list(range(8))
    assert step.loss == pytest.approx(one_row.loss, abs=1e-5)
    assert step.gradients.keys() == one_row.gradients.keys()
    for name, gradient in step.gradients.items():
        torch.testing.assert_close(gradient, one_row.gradients[name], atol=1e-5, rtol=1e-4)


def test_the_loss_is_that_of_the_answers_computed_by_hand(one_row: Step, llama_folder: Path) -> None:
    """From the probabilities that the base gives to each token of the answers and to their end."""
    tokenizer: Any = AutoTokenizer.from_pretrained(llama_folder)
    trained: list[float] = []
    for number in range(8):
        messages = json.loads(LINES[number])["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        answer = messages[-1]["content"] + "<|im_end|>"
        before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
        trained += _negative_logprobs(_adapted(llama_folder), before, after)
    assert one_row.loss == pytest.approx(math.fsum(trained) / len(trained), abs=1e-5)


def test_each_tokens_loss_is_the_same_in_a_row_as_alone(llama_folder: Path, tmp_path: Path) -> None:
    plan, store = planned(tmp_path, llama_folder, ROWS, LINES)
    trainer = trainer_of(plan, store)
    records = trainer.data.train
    items = [records[number] for number in range(len(records))]
    model: Any = AutoModelForCausalLM.from_pretrained(llama_folder, attn_implementation=attention.NAME).eval()
    alone: Any = AutoModelForCausalLM.from_pretrained(llama_folder, attn_implementation="eager").eval()
    row = packed(items)
    logprobs = model(**{**row, "labels": None}).logits[0].log_softmax(-1)
    start = 0
    for _, ids, _ in items:
        own = alone(input_ids=ids[None]).logits[0].log_softmax(-1)
        for place, token in enumerate(ids.tolist()[1:]):
            assert float(logprobs[start + place, token]) == pytest.approx(float(own[place, token]), abs=1e-4)
        start += len(ids)


def test_nothing_of_a_record_is_cut_and_only_answers_are_learned(llama_folder: Path, tmp_path: Path) -> None:
    plan, store = planned(tmp_path, llama_folder, ROWS, LINES)
    records = tokenise(plan, store, trainer_of(plan, store).checkpoints.reporter).train
    tokenizer: Any = AutoTokenizer.from_pretrained(llama_folder)
    for number, text in enumerate(LINES):
        _, ids, labels = records[number]
        messages = json.loads(text)["messages"]
        assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)
        learned = tokenizer.decode(labels[labels != IGNORED])
        assert learned == messages[-1]["content"] + "<|im_end|>"


def test_the_layouts_hold_the_same_records() -> None:
    items = [(0, torch.tensor([5, 6, 7]), torch.tensor([IGNORED, 6, 7]))]
    items.append((1, torch.tensor([8]), torch.tensor([IGNORED])))
    row, matrix = packed(items), padded(items)
    assert row["input_ids"].tolist() == [[5, 6, 7, 8]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0]]
    assert row["labels"].tolist() == [[IGNORED, 6, 7, IGNORED]]
    assert row["record_lengths"] == [3, 1]
    assert matrix["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert matrix["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert matrix["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, IGNORED, IGNORED]]


def test_a_sliding_window_ends_within_a_record() -> None:
    model: Any
    eager: Any
    model, eager = (
        MistralForCausalLM._from_config(
            MistralConfig(**SMALL, sliding_window=3, initializer_range=0.3), attn_implementation=kernel
        ).eval()
        for kernel in (attention.NAME, "eager")
    )
    eager.load_state_dict(model.state_dict())
    ids = torch.arange(10, 26)
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    ours = model(input_ids=ids[None], position_ids=positions, record_lengths=[9, 7]).logits[0]
    for start, end in ((0, 9), (9, 16)):
        theirs = eager(input_ids=ids[None, start:end]).logits[0]
        torch.testing.assert_close(ours[start:end], theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "apart"),
    [
        (MistralConfig(**SMALL, sliding_window=4), True),
        (MixtralConfig(**SMALL, num_local_experts=4), True),
        (Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]), False),
        (Gemma2Config(**SMALL, head_dim=8), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_whether_records_are_kept_apart_is_tried(config: Any, apart: bool) -> None:
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).eval()
    assert attention.keeps_records_apart(model) is apart


def test_attention_that_ignores_the_lengths_is_found_out(llama_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_folder, attn_implementation="sdpa").eval()
    positions_tell = attention.keeps_records_apart(model)
    model.config._attn_implementation = attention.NAME
    attend = attention.AttentionInterface._global_mapping[attention.NAME]
    try:
        attention.AttentionInterface.register(attention.NAME, _ignores_lengths)
        assert not attention.keeps_records_apart(model)
    finally:
        attention.AttentionInterface.register(attention.NAME, attend)
    assert attention.keeps_records_apart(model)
    # Transformers finds records by their positions too, with a mask of tokens × tokens.
    assert positions_tell


@pytest.fixture
def convolving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A base whose layers carry on what they saw."""
    torch.manual_seed(6)
    config = Lfm2Config(**SMALL, layer_types=["conv", "full_attention"], eos_token_id=2, pad_token_id=0)
    return save_base(tmp_path / "convolving", AutoModelForCausalLM.from_config(config), tokenizer)


def test_packing_is_refused_where_records_would_run_into_each_other(convolving: Path, tmp_path: Path) -> None:
    plan, store = planned(tmp_path, convolving, "training: {packing: true}\n", LINES)
    with pytest.raises(BadConfiguration, match=r"training\.packing: .*use auto or false"):
        trainer_of(plan, store)


def test_batches_are_padded_there_by_itself(
    convolving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, store = planned(tmp_path, convolving, "lora: {target_modules: [q_proj]}\n", LINES)
    assert not trainer_of(plan, store).layout.packed
    assert '"event":"not_packed"' in capsys.readouterr().err


def test_a_soft_cap_is_kept_by_transformers_own_attention(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(6)
    config = Gemma2Config(**SMALL, head_dim=8, eos_token_id=2, pad_token_id=0, bos_token_id=None)
    base = save_base(tmp_path / "capped", AutoModelForCausalLM.from_config(config), tokenizer)
    plan, store = planned(tmp_path, base, "training: {batch_size: 8, tokens_per_pass: 4096}\n", LINES)
    trainer = trainer_of(plan, store)
    assert trainer.model.config._attn_implementation != attention.NAME
    [item, *_] = trainer.get_train_dataloader()
    count = trainer._get_num_items_in_batch([item], trainer.args.device)
    ours = float(trainer.training_step(trainer.model, item, count))
    plain: Any = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    [one] = item["passes"]
    logits = plain(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits[:, :-1]
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), one["labels"][:, 1:].flatten())
    assert ours == pytest.approx(float(theirs), abs=1e-4)


def _ignores_lengths(*arguments: Any, **options: Any) -> Any:
    return attention.attend(*arguments, **{**options, "record_lengths": None})


def _adapted(base: Path) -> Any:
    """As `first_step` has it: the adapter of the seed, with B drawn."""
    torch.manual_seed(3407)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    ).eval()
    torch.manual_seed(11)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@torch.inference_mode()
def _negative_logprobs(model: Any, before: list[int], after: list[int]) -> list[float]:
    found = []
    for place, token in enumerate(after):
        logits = model(input_ids=torch.tensor([before + after[:place]])).logits[0, -1].double()
        found.append(float(torch.logsumexp(logits, 0) - logits[token]))
    return found


# -- what only some architectures do ---------------------------------------------------------------


def test_a_window_that_only_the_mask_tells_of_is_kept() -> None:
    model, plain = (
        Qwen2MoeForCausalLM._from_config(
            Qwen2MoeConfig(
                **SMALL,
                sliding_window=4,
                use_sliding_window=True,
                max_window_layers=0,
                num_experts=2,
                num_experts_per_tok=2,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=16,
                initializer_range=0.3,
            ),
            attn_implementation=kernel,
        ).eval()
        for kernel in (attention.NAME, "sdpa")
    )
    plain.load_state_dict(model.state_dict())
    ids = torch.arange(10, 26)
    positions = torch.cat([torch.arange(9), torch.arange(7)])[None]
    ours: Any = model(input_ids=ids[None], position_ids=positions, record_lengths=[9, 7])
    for start, end in ((0, 9), (9, 16)):
        theirs: Any = plain(input_ids=ids[None, start:end])
        torch.testing.assert_close(ours.logits[0, start:end], theirs.logits[0], atol=1e-4, rtol=1e-4)


def test_a_mixture_of_experts_learns_its_balance_and_shows_the_rest(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(6)
    config = MixtralConfig(**SMALL, num_local_experts=4, eos_token_id=2, pad_token_id=0, bos_token_id=None)
    config.output_router_logits = True
    base = save_base(tmp_path / "mixture", AutoModelForCausalLM.from_config(config), tokenizer)
    steps = {}
    for name, settings in (("row", ROWS), ("rows", "training: {batch_size: 8, packing: false}\n")):
        folder = tmp_path / name
        folder.mkdir()
        plan, store = planned(folder, base, f"method: full\n{settings}", LINES)
        trainer = trainer_of(plan, store)
        assert trainer.aux_loss_enabled
        [item, *_] = trainer.get_train_dataloader()
        count = trainer._get_num_items_in_batch([item], trainer.args.device)
        shown = float(trainer.training_step(trainer.model, item, count))
        logits = trainer.model(**{**item["passes"][0], "labels": None}).logits
        steps[name] = shown
        assert trainer.model.model.layers[0].mlp.gate.weight.grad.abs().max() > 0
        assert logits.isfinite().all()
    assert steps["row"] == pytest.approx(steps["rows"], abs=1e-4)


def test_noise_goes_by_the_length_of_each_record(llama_folder: Path, tmp_path: Path) -> None:
    plan, store = planned(tmp_path, llama_folder, "training: {neftune_noise_alpha: 8}\n", LINES)
    trainer = trainer_of(plan, store)
    assert trainer.noise is not None
    embeddings = trainer.model.get_input_embeddings()
    still = embeddings.weight[torch.zeros(1, 30, dtype=torch.long)]
    for one in (
        {"input_ids": torch.zeros(1, 30, dtype=torch.long), "record_lengths": [25, 5]},
        {
            "input_ids": torch.zeros(2, 25, dtype=torch.long),
            "attention_mask": torch.tensor([[1] * 25, [1] * 5 + [0] * 20]),
        },
    ):
        trainer.noise.prepare(one)
        trainer.model.train()
        noise = (embeddings(one["input_ids"]) - still[0, 0]).flatten(0, 1).abs()
        size = still.shape[-1]
        long, short = noise[:25], noise[25:30]
        assert 0.9 < float(long.max()) * (25 * size) ** 0.5 / 8 <= 1 + 1e-5
        assert 0.9 < float(short.max()) * (5 * size) ** 0.5 / 8 <= 1 + 1e-5
        trainer.model.eval()
        assert torch.equal(embeddings(one["input_ids"])[0, 0], still[0, 0])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_mixtures_checkpoint_has_all_of_it(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, method: str
) -> None:
    """Transformers would write experts under the names of the base, and pass over them when it reads."""
    torch.manual_seed(6)
    config = MixtralConfig(**SMALL, num_local_experts=4, eos_token_id=2, pad_token_id=0, bos_token_id=None)
    base = save_base(tmp_path / "mixture", AutoModelForCausalLM.from_config(config), tokenizer)
    trainer = trainer_of(*planned(tmp_path, base, f"method: {method}\n{ROWS}", LINES))
    learned = [each for each in trainer.model.parameters() if each.requires_grad]
    for parameter in learned:
        torch.nn.init.normal_(parameter.data)
    saved = [parameter.detach().clone() for parameter in learned]
    trainer._save(str(tmp_path / "checkpoint"))
    for parameter in learned:
        torch.nn.init.zeros_(parameter.data)
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    assert all(torch.equal(one, other) for one, other in zip(learned, saved, strict=True))


def test_the_best_checkpoint_needs_something_to_judge_by(llama_folder: Path, tmp_path: Path) -> None:
    plan, store = planned(tmp_path, llama_folder, "training: {packing: auto}\n", LINES)
    training = plan.spec.training.model_copy(update={"load_best_model_at_end": True})
    plan = dataclasses.replace(plan, spec=plan.spec.model_copy(update={"training": training}))
    with pytest.raises(BadConfiguration, match="need evaluation records, and there are none"):
        trainer_of(plan, store)
