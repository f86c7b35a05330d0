"""The stylist's training set: every record whole, of one form, and like no other; its run files load."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from hone_contract.spec_file import load_run_spec
from tests.examples.product import ROOT

FASHION = ROOT / "examples" / "fashion-style"
LINES = (FASHION / "records.jsonl").read_bytes().splitlines()
RECORDS: list[dict[str, Any]] = [json.loads(line) for line in LINES]

PROMPT = (
    "You are a personal stylist recommending fashion advice and clothing combinations. Use the self body and "
    "style description below, combined with the event described in the context to generate 5 self-contained "
    "and complete outfit combinations.\n\n### Input:\n{input}\n\n### Context:\n{context}"
)

each_record = pytest.mark.parametrize("record", RECORDS, ids=range(1, len(RECORDS) + 1))
each_run = pytest.mark.parametrize("name", ["run.yaml", "run-mistral-7b.yaml"])


# -- the records -----------------------------------------------------------------------------------


def test_there_are_enough_records() -> None:
    assert len(RECORDS) >= 120


@each_record
def test_a_record_is_three_texts_and_nothing_else(record: dict[str, Any]) -> None:
    assert list(record) == ["input", "context", "completion"]
    for text in record.values():
        assert isinstance(text, str)
        assert text and text == text.strip()


@each_record
def test_a_completion_is_five_outfits_and_nothing_else(record: dict[str, Any]) -> None:
    outfits = record["completion"].split("\n\n")
    assert len(outfits) == 5
    for number, outfit in enumerate(outfits, start=1):
        heading, *pieces = outfit.split("\n")
        assert heading == f"Outfit {number}:"
        _assert_is_complete(pieces)


@each_record
def test_texts_are_neither_too_short_nor_too_long(record: dict[str, Any]) -> None:
    assert 20 <= len(record["input"].split()) <= 60
    assert 3 <= len(record["context"].split()) <= 15
    assert 120 <= len(_words(record["completion"])) <= 220


def test_every_line_is_short_and_spells_its_letters_out() -> None:
    for number, line in enumerate(LINES, start=1):
        assert len(line) < 4096, number
        assert rb"\u" not in line, number


def test_no_person_has_an_occasion_twice() -> None:
    asked = [(_folded(record["input"]), _folded(record["context"])) for record in RECORDS]
    assert len(asked) == len(set(asked))


def test_no_two_completions_are_alike() -> None:
    completions = [_folded(record["completion"]) for record in RECORDS]
    assert len(completions) == len(set(completions))


def test_no_completion_is_another_with_words_swapped() -> None:
    numbered = [(number, _trigrams(record["completion"])) for number, record in enumerate(RECORDS, start=1)]
    for (one, ours), (other, theirs) in combinations(numbered, 2):
        assert len(ours & theirs) / min(len(ours), len(theirs)) < 0.6, f"records {one} and {other}"


# -- the run files ---------------------------------------------------------------------------------


@each_run
def test_a_run_file_asks_in_the_form_of_the_instruction(name: str) -> None:
    data = load_run_spec(FASHION / name).data
    assert data is not None
    assert data.train == "records.jsonl"
    assert data.columns == {"prompt": PROMPT, "completion": "{completion}"}


def test_the_two_run_files_differ_in_the_model_and_how_it_is_loaded_alone() -> None:
    small, large = (load_run_spec(FASHION / name) for name in ("run.yaml", "run-mistral-7b.yaml"))
    assert small.name != large.name
    assert small.model.chat_template is None
    assert large.model.name == "mistralai/Mistral-7B-v0.1"
    assert large.model.chat_template == "mistral-instruct"
    assert large.data == small.data
    assert large.training == small.training
    assert (small.method, large.method) == ("lora", "qlora")
    assert large.lora.target_modules == "projections"
    assert large.lora.model_copy(update={"target_modules": "all-linear"}) == small.lora


def test_the_readme_asks_in_the_form_of_the_instruction() -> None:
    readme = (FASHION / "README.md").read_text(encoding="utf-8")
    instruction, _, rest = PROMPT.partition("\n\n")
    assert f'hone-chat "{instruction}"' in readme
    form = re.sub(r"\{\w+\}", "%s", rest).replace("\n", "\\n")
    assert f"printf '{form}\\n'" in readme


def _assert_is_complete(pieces: list[str]) -> None:
    assert all(re.fullmatch(r"- [A-Z][a-z]+( [a-z]+)*: \S.*", piece) for piece in pieces), pieces
    *garments, shoe, accessories = [piece[2:].partition(":")[0] for piece in pieces]
    assert (shoe, accessories) == ("Shoe", "Accessories")
    assert garments == ["Top", "Bottom"] or (len(garments) == 1 and garments[0] not in ("Top", "Bottom"))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w[\w'-]*", text.casefold())


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return set(zip(words, words[1:], words[2:], strict=False))
