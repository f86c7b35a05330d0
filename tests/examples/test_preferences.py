"""The pairs of examples/preferences, and the run that learns from them."""

import json
from typing import Any

import pytest

from hone_contract.spec_file import load_run_spec
from hone_trainer.data.check import check
from tests.examples.product import ROOT

FOLDER = ROOT / "examples" / "preferences"


def pairs(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("name", "count"), [("train.jsonl", 40), ("held_out.jsonl", 10)])
def test_every_pair_is_good_and_the_shorter_answer_is_preferred(name: str, count: int) -> None:
    found = check(FOLDER / name)
    assert (found.records, found.problems, dict(found.forms)) == (count, [], {"preference": count})
    for pair in pairs(name):
        [better], [worse] = pair["preferred_output"], pair["non_preferred_output"]
        assert better["content"] in worse["content"]
        assert 2 * len(better["content"]) < len(worse["content"])


def test_no_question_is_asked_twice() -> None:
    asked = [
        pair["input"]["messages"][0]["content"]
        for name in ("train.jsonl", "held_out.jsonl")
        for pair in pairs(name)
    ]
    assert len(set(asked)) == len(asked) == 50


def test_the_run_is_of_the_demo_model_and_learns_from_pairs() -> None:
    spec = load_run_spec(FOLDER / "run.yaml")
    assert (spec.title, spec.model.name) == ("short-answers", "demo:smollm2-135m-instruct")
    assert (spec.method, spec.objective, spec.dpo.beta) == ("lora", "dpo", 0.1)
