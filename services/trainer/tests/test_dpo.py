"""Preference pairs: what is counted of them, and that the loss over them is TRL's."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from trainer_step import planned, trainer_of
from trainer_tiny import chat_tokenizer, conversation, preference, preferences, write_lines
from transformers import PreTrainedTokenizerFast
from trl import DPOTrainer

from hone_contract.errors import BadInput
from hone_contract.events import Rewards
from hone_contract.probes import read_probes
from hone_contract.store import Store
from hone_trainer.chat.conversation import IGNORED, see_all, to_sequences
from hone_trainer.plan import make_plan
from hone_trainer.record import Record, load_records
from hone_trainer.reporting.exporter import Exporter
from hone_trainer.reporting.run_files import read_metrics
from hone_trainer.train import train
from hone_trainer.training.collating import PairCollator
from hone_trainer.training.dpo import Dpo
from hone_trainer.training.loop import Loop
from hone_trainer.training.tokens import TokenisedPairs

DPO = "objective: dpo\ndpo: {beta: 0.3}\nlora: {r: 4}\n"


PAIRS = [
    preference("Why?", "The sky is blue.", "No."),
    preference(
        "What is the colour of the grass?", "It is green.", "The colour of the sky is what it is, is it?"
    ),
    preference("Who?", "You.", "The user, the assistant, and the system, what is the colour of that?"),
    preference("What is it?", "The system: the grass is green, the sky is blue.", "It is what it is."),
    preference("Is the sky green, as the grass is?", "No, blue.", "Green."),
]


@pytest.fixture
def trainer(tmp_path: Path, llama_folder: Path, request: pytest.FixtureRequest) -> Loop:
    """Of a step of all pairs, in several passes; its adapter already differs from nothing."""
    rest = f"training: {{batch_size: {len(PAIRS)}, tokens_per_pass: 180, packing: {request.param}}}\n"
    made = trainer_of(*planned(tmp_path, llama_folder, DPO + rest, PAIRS))
    torch.manual_seed(11)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def as_trl_has_it(pairs: TokenisedPairs) -> dict[str, torch.Tensor]:
    """One padded batch, the better answers before the worse ones."""
    pad = torch.nn.utils.rnn.pad_sequence
    sequences = [pairs[index][side] for side in (0, 1) for index in range(len(pairs))]
    return {
        "input_ids": pad([ids for _, ids, _ in sequences], batch_first=True),
        "attention_mask": pad([torch.ones_like(ids) for _, ids, _ in sequences], batch_first=True),
        "completion_mask": pad([(labels != IGNORED).long() for _, _, labels in sequences], batch_first=True),
    }


@pytest.mark.chain
@pytest.mark.parametrize("trainer", ["true", "false"], indirect=True)
@pytest.mark.parametrize("reduces", [True, False], ids=["on a CPU", "by TRL's head"])
def test_a_step_is_as_trls_own_loss_has_it(trainer: Dpo, reduces: bool) -> None:
    trainer._reduces &= reduces
    assert trainer._reduces is reduces
    [item] = trainer.get_train_dataloader()
    count = trainer._get_num_items_in_batch([item], trainer.args.device)
    assert (int(count), sorted(item["records"])) == (len(PAIRS), list(range(len(PAIRS))))
    assert len(item["passes"]) > 1
    loss = trainer.training_step(trainer.model, item, count)
    ours = gradients(trainer.model)
    theirs: Any = DPOTrainer._compute_loss(trainer, trainer.model, as_trl_has_it(trainer.data.train), False)
    theirs.backward()
    assert float(loss) == pytest.approx(float(theirs), rel=1e-5)
    assert float(loss) != pytest.approx(math.log(2), rel=1e-2)
    for name in trainer.measures:
        assert trainer._told[name] == pytest.approx(trainer._metrics["train"][name][0], rel=1e-4, abs=1e-5)
    expected = gradients(trainer.model)
    assert ours.keys() == expected.keys() and len(ours) == 2 * 2 * 7
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("trainer", ["true"], indirect=True)
def test_the_base_is_the_model_without_its_adapter_and_there_is_no_other(trainer: Dpo) -> None:
    assert trainer.ref_model is None
    assert set(trainer.model.peft_config) == {"default"}
    assert not [name for name, _ in trainer.model.named_parameters() if ".ref." in name]
    learns = [each for each in trainer.model.parameters() if each.requires_grad]
    [item] = trainer.get_train_dataloader()
    trainer.model.train()
    with trainer._reference() as base:
        assert not base.training
        before, _ = trainer._answers(base, item["passes"][0])
    assert trainer.model.training and not before.requires_grad
    assert [each for each in trainer.model.parameters() if each.requires_grad] == learns
    after, _ = trainer._answers(trainer.model, item["passes"][0])
    assert after.requires_grad and not torch.allclose(before, after, atol=1e-2)


@pytest.mark.parametrize("trainer", ["true"], indirect=True)
def test_a_process_without_pairs_learns_nothing(trainer: Dpo) -> None:
    step = trainer.collator()([])
    assert (step["counted"], step["tokens"], step["records"]) == (0, 0, [])
    made = trainer.made_of(trainer.model, step["passes"][0])
    assert float(made.loss) == 0 == float(made.told.abs().sum())
    made.loss.backward()
    assert not any(each.any() for each in gradients(trainer.model).values())


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("trainer", ["true"], indirect=True)
def test_no_pass_parts_a_pair(trainer: Dpo, packed: bool) -> None:
    pairs = trainer.data.train
    collator = PairCollator(pairs, 180, packed, len(pairs))
    groups = collator.groups(pairs.lengths)
    assert sorted(place for group in groups for place in group) == list(range(len(pairs)))
    for group in groups:
        one = collator.lay([pairs[place] for place in group])
        assert one["input_ids"].numel() <= 180 or len(group) == 1
        assert len(one["record_lengths"] if packed else one["input_ids"]) == 2 * len(group)


# -- a run -----------------------------------------------------------------------------------------


@pytest.mark.chain
def test_a_run_puts_pairs_in_order_that_it_never_saw(tmp_path: Path, llama_folder: Path) -> None:
    write_lines(tmp_path / "data.jsonl", preferences(24))
    text = f"model: {{name: {llama_folder}}}\n{DPO}data: {{train: data.jsonl, eval_count: 4}}\n"
    (tmp_path / "run.yaml").write_text(
        text + "training: {epochs: 2, learning_rate: 1e-2, load_best_model_at_end: true}\n", encoding="utf-8"
    )
    store = Store(tmp_path / "store")
    exporter = Exporter("sky-1")
    adapter = train(plan := make_plan(tmp_path / "run.yaml", None, store), store)
    lines = read_metrics(store.run(plan.run_id) / "metrics.jsonl")
    steps = [line for line in lines if line.rewards is not None]
    before, *_, after = [line for line in lines if line.eval_rewards is not None]
    assert len(steps) + 3 == len(lines) and not any(line.eval_rewards for line in steps)
    assert before.eval_rewards == Rewards(chosen=0, rejected=0, margin=0, accuracy=0)
    assert before.eval_loss == steps[0].loss == pytest.approx(math.log(2))
    assert after.eval_rewards is not None
    rewards = after.eval_rewards
    assert rewards.margin == pytest.approx(rewards.chosen - rewards.rejected, abs=1e-5)
    assert rewards.margin > 1 and rewards.accuracy == 1 and (after.eval_loss or 1) < 0.4
    metrics = adapter.manifest.metrics
    assert (metrics["eval_reward_margin"], metrics["eval_reward_accuracy"]) == (rewards.margin, 1)
    with safe_open(adapter.path / "adapter_model.safetensors", "numpy") as file:
        assert len(list(file.keys())) == 2 * 2 * 7
    held_out = load_records(plan.dataset.path / "eval.jsonl")
    probes = read_probes(adapter.path).probes
    assert {probe.messages[-1]["content"] for probe in probes} == {
        pair.messages[-1]["content"] for pair in held_out
    }
    assert "nats a pair" in (store.run(plan.run_id) / "report.html").read_text(encoding="utf-8")
    exporter.show_metrics(after)
    shown = {family.name: family.samples[0].value for family in exporter.collect()}
    assert shown["hone_training_eval_reward_margin"] == rewards.margin
    assert "hone_training_reward_margin" not in shown


# -- what of a pair counts -------------------------------------------------------------------------


def record(asked: list[dict[str, Any]], better: str, worse: str) -> Record:
    answers = [conversation(("assistant", each)) for each in (better, worse)]
    return Record(asked, "data.jsonl:7", chosen=answers[0], rejected=answers[1])


def test_of_a_pair_only_its_two_answers_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = conversation(("system", "It is."), ("user", "Why?"), ("assistant", "The sky."), ("user", "Who?"))
    seen = see_all(tokenizer, record(asked, "The user.", "Green."))
    learned = [
        tokenizer.decode([t for t, is_one in zip(s.ids, s.learned, strict=True) if is_one]) for s in seen
    ]
    assert learned == ["The user.<|im_end|>", "Green.<|im_end|>"]
    question = [s.ids[: s.learned.index(True)] for s in seen]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert question[0] == question[1] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_longer_answer_is_held_against_the_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    made = record(conversation(("user", "Why?")), "The sky is blue.", "Blue. " * 40)
    longest = max(len(each.input_ids) for each in to_sequences(tokenizer, made, 2048))
    assert to_sequences(tokenizer, made, longest)
    with pytest.raises(BadInput, match=rf"^data\.jsonl:7: has {longest} tokens, more than"):
        to_sequences(tokenizer, made, longest - 1)


def test_a_question_that_depends_on_its_answer_is_refused() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = (
        "{{ messages[-1]['content'][0] }}{% for message in messages %}{{ '<|im_start|>' + message['role'] }}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% endfor %}"
    )
    made = record(conversation(("user", "Why?")), "The sky.", "Blue.")
    with pytest.raises(BadInput, match=r"^data\.jsonl:7: .* writes the question differently"):
        see_all(tokenizer, made)


@pytest.mark.parametrize(
    ("spec", "line", "told"),
    [
        ("", PAIRS[0], r"data\.jsonl: holds preference pairs, .* write objective: dpo"),
        (DPO, '{"prompt": "a", "completion": "b"}', r"data\.jsonl: holds answers, and objective: dpo"),
        (DPO, preference("Why?", "It is. ", "It is."), r"data\.jsonl:1: both answers are the same"),
    ],
)
def test_data_that_teaches_nothing_is_refused(
    tmp_path: Path, llama_folder: Path, spec: str, line: str, told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        planned(tmp_path, llama_folder, spec, [line])
