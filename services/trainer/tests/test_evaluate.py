"""`hone-trainer evaluate`: its numbers are those of a computation by hand, and those of training."""

import json
import math
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from trainer_cli import refusal, run_trainer
from trainer_run import Run
from trainer_sealed import RUN, merge, seal_drawn, sealed_run
from trainer_tiny import conversation, line, preferences, questions, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone_contract.artifact import draft, seal
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.store import Store
from hone_trainer.__main__ import main
from hone_trainer.answering.evaluation_data import evaluation_data, spec_of
from hone_trainer.answering.lookup import Found
from hone_trainer.record import Record, load_records

pytestmark = pytest.mark.chain

RECORDS = [
    line(
        ("user", f"What is the colour of thing {number}?"),
        ("assistant", f"It is {'very ' * (number % 4)}blue."),
    )
    for number in range(30)
]


@pytest.fixture
def run(tmp_path: Path, llama_folder: Path) -> Found:
    return sealed_run(tmp_path, llama_folder, RECORDS)


def command(folder: Path, *options: str, run_id: str = RUN) -> int:
    """The command in this process; its exit code."""
    arguments = ["hone-trainer", "--store", str(folder / "store"), "evaluate", run_id, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as left:
            main()
    return int(left.value.code or 0)


def evaluate(folder: Path, *options: str, run_id: str = RUN) -> dict[str, Any]:
    """What it wrote as JSON."""
    assert command(folder, *options, "--json", str(folder / "told.json"), run_id=run_id) == 0
    told: dict[str, Any] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return told


def held_out(found: Found, store: Store) -> list[Record]:
    return load_records(store.dataset(found.artifact.manifest.lineage["dataset"].id) / "eval.jsonl")


@torch.inference_mode()
def by_hand(model: Any, tokenizer: Any, records: list[Record], tokens: int) -> dict[str, float]:
    """One record at a time, one answer at a time, in the plainest way."""
    losses, right, said = [], [], []
    for record in records:
        ids = tokenizer.apply_chat_template(record.messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(
            record.messages[:-1], add_generation_prompt=True, return_dict=False
        )
        # ChatML ends a turn with its end token and a newline, which no model has to say.
        end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        for place in range(len(prompt), end):
            losses.append(-float(logits[place - 1].log_softmax(-1)[ids[place]]))
            right.append(int(logits[place - 1].argmax()) == ids[place])
        output = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False)
        said.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    expected = [[record.messages[-1]["content"] for record in records]]
    loss = sum(losses) / len(losses)
    return {
        "eval_loss": loss,
        "perplexity": math.exp(loss),
        "token_accuracy": sum(right) / len(right),
        "bleu": sacrebleu.corpus_bleu(said, expected).score,
        "chrf": sacrebleu.corpus_chrf(said, expected).score,
        "learned_tokens": len(losses),
    }


def test_every_number_is_that_of_a_computation_by_hand(run: Found, store: Store, tmp_path: Path) -> None:
    merged = merge(run, store)
    told = evaluate(tmp_path)
    tokenizer, records = AutoTokenizer.from_pretrained(run.base.path), held_out(run, store)
    base = AutoModelForCausalLM.from_pretrained(run.base.path).eval()
    expected = {"base": by_hand(base, tokenizer, records, told["max_tokens"])}
    expected["merged"] = by_hand(
        AutoModelForCausalLM.from_pretrained(merged.path).eval(), tokenizer, records, told["max_tokens"]
    )
    tuned = PeftModel.from_pretrained(base, run.artifact.path).eval()
    expected["tuned"] = by_hand(tuned, tokenizer, records, told["max_tokens"])
    for title, numbers in expected.items():
        assert told["learned_tokens"] == numbers.pop("learned_tokens")
        for name, number in numbers.items():
            assert told["models"][title][name] == pytest.approx(number, rel=1e-4, abs=1e-4), (title, name)
    assert told["models"]["merged"]["eval_loss"] == pytest.approx(
        told["models"]["tuned"]["eval_loss"], abs=1e-4
    )
    assert abs(told["models"]["base"]["eval_loss"] - told["models"]["tuned"]["eval_loss"]) > 0.01


@torch.inference_mode()
def rewarded(model: Any, tokenizer: Any, record: Record) -> list[float]:
    """log p of both answers of a pair, each from a forward pass of its own."""
    prompt = tokenizer.apply_chat_template(record.messages, add_generation_prompt=True, return_dict=False)
    sums = []
    for answer in (record.chosen, record.rejected):
        ids = tokenizer.apply_chat_template([*record.messages, *answer], return_dict=False)
        end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        sums.append(sum(float(logits[place - 1, ids[place]]) for place in range(len(prompt), end)))
    return sums


def test_of_pairs_every_number_is_that_of_a_computation_by_hand(
    store: Store, tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": "data.jsonl", "eval_count": 8}
    spec = {"objective": "dpo", "dpo": {"beta": 0.3}, "data": data}
    run = sealed_run(tmp_path, llama_folder, preferences(20), **spec)
    told = evaluate(tmp_path, "--max-tokens", "4")
    tokenizer, pairs = AutoTokenizer.from_pretrained(run.base.path), held_out(run, store)
    model: Any = AutoModelForCausalLM.from_pretrained(run.base.path).eval()
    base = [rewarded(model, tokenizer, pair) for pair in pairs]
    model = PeftModel.from_pretrained(model, run.artifact.path).eval()
    tuned = [rewarded(model, tokenizer, pair) for pair in pairs]
    margins = [0.3 * (mine[0] - its[0] - mine[1] + its[1]) for mine, its in zip(tuned, base, strict=True)]
    found = told["models"]["tuned"]
    assert found["eval_loss"] == pytest.approx(
        sum(math.log(1 + math.exp(-margin)) for margin in margins) / 8, rel=1e-4
    )
    assert found["reward_margin"] == pytest.approx(sum(margins) / 8, rel=1e-3, abs=1e-4)
    assert found["reward_accuracy"] == sum(margin > 0 for margin in margins) / 8
    assert found["better_likelier"] == sum(better > worse for better, worse in tuned) / 8
    unmoved = told["models"]["base"]
    assert unmoved["eval_loss"] == pytest.approx(math.log(2))
    assert (unmoved["reward_margin"], unmoved["reward_accuracy"]) == (0, 0)
    assert (told["records"], told["answers"]) == (8, 8)
    rows = [row.split("  ")[0] for row in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["eval loss", "reward margin", "reward accuracy", "better is likelier", "BLEU", "chrF"]


def test_the_json_says_what_the_numbers_depend_on(run: Found, store: Store, tmp_path: Path) -> None:
    merged = merge(run, store)
    told = evaluate(tmp_path)
    dataset = run.artifact.manifest.lineage["dataset"]
    assert told["run_id"] == RUN
    assert told["dataset"] == {"id": dataset.id, "digest": dataset.digest, "part": "eval"}
    assert told["records"] == told["answers"] == len(held_out(run, store))
    assert told["max_length"] == 2048
    made = {"base": run.base, "tuned": run.artifact, "merged": merged}
    assert list(told["models"]) == list(made)
    for title, artifact in made.items():
        model = told["models"][title]
        assert (model["id"], model["digest"]) == (artifact.manifest.id, artifact.manifest.digest)
        assert model["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
        assert model["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")


@pytest.mark.usefixtures("run")
def test_without_generation_there_is_no_likeness_and_no_merged_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = evaluate(tmp_path, "--no-generation", "--limit", "2")
    numbers = {"id", "digest", "eval_loss", "perplexity", "token_accuracy"}
    assert {title: set(model) for title, model in told["models"].items()} == {
        "base": numbers,
        "tuned": numbers,
    }
    assert (told["records"], told["answers"], told["max_tokens"]) == (2, 0, None)
    title, head, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{RUN}: 2 records of data-")
    assert head.split() == ["base", "tuned"]
    assert [row.split("  ")[0] for row in rows] == ["eval loss", "perplexity", "token accuracy"]
    assert {len(row) for row in rows} == {len(head)}
    losses = [f"{told['models'][title]['eval_loss']:.4f}" for title in ("base", "tuned")]
    assert rows[0].split()[2:] == losses


def test_a_limit_takes_records_from_everywhere(run: Found, store: Store, tmp_path: Path) -> None:
    every = evaluate(tmp_path, "--no-generation")
    few = evaluate(tmp_path, "--no-generation", "--limit", "2")
    more = evaluate(tmp_path, "--no-generation", "--limit", "1000")
    assert few["models"]["base"]["eval_loss"] != every["models"]["base"]["eval_loss"]
    assert more == every
    assert every["records"] == len(held_out(run, store)) > 2


def test_other_data_is_read_as_the_runs_own_and_nothing_of_it_is_left_out(
    tmp_path: Path, llama_folder: Path
) -> None:
    data = {"train": "data.jsonl", "columns": {"prompt": "{ask}", "completion": "say"}, "system": "Be kind."}
    lines = [json.dumps({"ask": f"What is thing {number}?", "say": "Blue."}) for number in range(8)]
    run = sealed_run(tmp_path, llama_folder, lines, data=data)
    other = write_lines(tmp_path / "other.jsonl", ['{"ask": "Why?", "say": "So."}'] * 3)
    told = evaluate(tmp_path, "--data", str(other))
    assert (told["records"], told["dataset"]["part"]) == (3, "train")
    record = Record(
        [*conversation(("system", "Be kind."), ("user", "Why?"), ("assistant", "So."))], "other.jsonl:1"
    )
    base = AutoModelForCausalLM.from_pretrained(run.base.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.base.path)
    expected = by_hand(base, tokenizer, [record], told["max_tokens"])
    assert told["models"]["base"]["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-4)


def test_a_record_too_long_for_the_run_is_not_cut(
    tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed_run(tmp_path, llama_folder, questions(8), training={"max_length": 64})
    long = write_lines(tmp_path / "long.jsonl", [line(("user", "Why? " * 40), ("assistant", "So."))])
    assert command(tmp_path, "--data", str(long)) == 65
    assert "long.jsonl:1: has 214 tokens, more than 64" in capsys.readouterr().err


def test_whole_weights_are_evaluated_beside_their_base(tmp_path: Path, llama_folder: Path) -> None:
    adapter, weights = tmp_path / "adapter", tmp_path / "weights"
    told = {}
    for kind, folder in (("adapter", adapter), ("weights", weights)):
        folder.mkdir()
        sealed_run(folder, llama_folder, RECORDS, kind=kind)
        told[kind] = evaluate(folder)["models"]
    for title in ("base", "tuned"):
        for name in ("eval_loss", "bleu", "chrf", "token_accuracy"):
            expected = pytest.approx(told["adapter"][title][name], abs=1e-4)
            assert told["weights"][title][name] == expected, (title, name)


def test_a_format_of_the_users_is_asked_up_to_its_answer(tmp_path: Path, llama_folder: Path) -> None:
    data = {"train": "data.jsonl", "format": "Q: {ask}\nA: {say}"}
    lines = [json.dumps({"ask": f"What is thing {number}?", "say": "Blue."}) for number in range(30)]
    run = sealed_run(tmp_path, llama_folder, lines, data=data)
    told = evaluate(tmp_path)
    assert told["answers"] == told["records"] == len(held_out(run, Store(tmp_path / "store")))


def test_plain_text_has_a_loss_and_is_asked_nothing(tmp_path: Path, llama_folder: Path) -> None:
    lines = [json.dumps({"text": f"The sky is blue {number} times."}) for number in range(30)]
    sealed_run(tmp_path, llama_folder, lines)
    told = evaluate(tmp_path)
    assert (told["answers"], told["max_tokens"]) == (0, None)
    assert told["learned_tokens"] > 0
    assert set(told["models"]["tuned"]) == {"id", "digest", "eval_loss", "perplexity", "token_accuracy"}


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["none"], 78, "no adapter at store/adapters/none"),
        ([RUN, "--model", "none"], 78, "no version of models/none is live"),
        ([RUN, "--json", "none/told.json"], 78, "--json: there is no folder none"),
        ([RUN, "--data", "none.jsonl"], 78, "none.jsonl: there is no such file"),
        ([RUN, "--limit", "0"], 78, "'0' is no whole number above 0"),
    ],
)
def test_a_mistake_is_one_line_before_torch_is_loaded(
    tmp_path: Path, options: list[str], code: int, told: str
) -> None:
    done = run_trainer(tmp_path, "evaluate", *options)
    if done.err.startswith("error: "):
        refusal(done, code)
    assert (done.code, done.out) == (code, "")
    assert told in done.err


def test_records_must_be_known(tmp_path: Path, llama_folder: Path) -> None:
    data = {"train": "data.jsonl", "eval_fraction": 0}
    run = sealed_run(tmp_path, llama_folder, questions(8), data=data)
    store = Store(tmp_path / "store")
    with pytest.raises(BadInput, match=r"set no records aside for evaluation; name some with --data"):
        evaluation_data(run, spec_of(run, store), None, store, None)
    made = seal_drawn(store, run.base, {"base": run.base.source}, "foreign-0123456789", "adapter")
    foreign = Found(made, run.base)
    spec = spec_of(foreign, store)
    assert spec.model.name == "tiny-llama"
    with pytest.raises(BadConfiguration, match=r"was trained elsewhere, on data that is not known"):
        evaluation_data(foreign, spec, None, store, None)
    told = evaluate(tmp_path, "--data", str(tmp_path / "data.jsonl"), run_id="foreign-0123456789")
    assert told["records"] == 8


def test_weights_without_a_number_are_told(
    run: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run.artifact.path / "adapter_model.safetensors"
    spoilt = {name: tensor * float("nan") for name, tensor in load_file(file).items()}
    save_file(spoilt, file, metadata={"format": "pt"})
    assert command(tmp_path, "--no-generation") == 65
    assert "error: tuned: the evaluation loss is nan" in capsys.readouterr().err


def test_the_numbers_are_those_that_training_had(training: "Future[Run]") -> None:
    trained = training.result()
    told = evaluate(trained.folder, "--no-generation", run_id=trained.id)
    metrics = trained.adapter.manifest.metrics
    found = [told["models"][title]["eval_loss"] for title in ("base", "tuned")]
    expected = [metrics["eval_loss_before"], metrics["eval_loss_after"]]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_template_that_the_run_chose_is_the_one_that_counts(
    tmp_path: Path, llama_folder: Path, store: Store
) -> None:
    """It is sealed with the adapter; the base's own is another."""
    run = sealed_run(tmp_path, llama_folder, RECORDS)
    before = evaluate(tmp_path, "--no-generation")
    (run.artifact.path / "manifest.json").unlink()
    template = run.artifact.path / "chat_template.jinja"
    template.write_text("Talk.\n" + template.read_text(encoding="utf-8"), encoding="utf-8")
    moved = run.artifact.path.rename(store.adapter(RUN).with_name("moved"))
    with draft(store.adapter(RUN), RUN) as partial:
        for path in moved.iterdir():
            path.rename(partial / path.name)
        seal(partial, "adapter", RUN, lineage=run.artifact.manifest.lineage)
    after = evaluate(tmp_path, "--no-generation")
    assert after["learned_tokens"] == before["learned_tokens"]
    assert after["tokens"] > before["tokens"]
