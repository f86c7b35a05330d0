"""What a model is to be asked."""

import json
from pathlib import Path

import pytest
from trainer_sealed import merge, seal_drawn, sealed_run
from trainer_tiny import line, questions, write_lines

from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.store import Store
from hone_trainer.answering.lookup import Found
from hone_trainer.answering.prompts import draw_record, one_prompt, read_prompts
from hone_trainer.record import Record, load_records


@pytest.fixture
def run(tmp_path: Path, llama_folder: Path) -> Found:
    return sealed_run(tmp_path, llama_folder, questions(24))


def asked(record: Record) -> list[tuple[str, str]]:
    """All but the last answer."""
    assert record.messages[-1]["role"] == "assistant"
    return [(message["role"], message["content"]) for message in record.messages[:-1]]


def test_a_prompt_is_the_users_turn() -> None:
    assert asked(one_prompt("Hi?", None)) == [("user", "Hi?")]
    assert asked(one_prompt("Hi?", "Be kind.")) == [("system", "Be kind."), ("user", "Hi?")]
    with pytest.raises(BadConfiguration, match="--prompt: holds nothing to ask"):
        one_prompt(" \n", None)


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "prompts.txt", ["Hi?", "", "  What is\u2028LoRA?  "])
    records = read_prompts(file, "Be kind.")
    assert [asked(record)[1][1] for record in records] == ["Hi?", "What is\u2028LoRA?"]
    assert [record.source for record in records] == ["prompts.txt:1", "prompts.txt:3"]


def test_a_file_of_records_may_have_answers_and_may_not(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "sky", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "blue"}
    lines = [
        line(("user", "a"), ("assistant", "left out")),
        line(("system", "Own."), ("user", "b")),
        line(("user", "c"), ("assistant", "C"), ("user", "d")),
        '{"prompt": "e"}',
        '{"instruction": "f", "input": "g"}',
        '{"instruction": "h", "output": "left out"}',
        json.dumps({"messages": [{"role": "user", "content": "i"}, called, result]}),
    ]
    records = read_prompts(write_lines(tmp_path / "asked.jsonl", lines), "Be kind.")
    kind = ("system", "Be kind.")
    assert [asked(record) for record in records] == [
        [kind, ("user", "a")],
        [("system", "Own."), ("user", "b")],
        [kind, ("user", "c"), ("assistant", "C"), ("user", "d")],
        [kind, ("user", "e")],
        [kind, ("user", "f\n\ng")],
        [kind, ("user", "h")],
        [kind, ("user", "i"), ("assistant", ""), ("tool", "blue")],
    ]


@pytest.mark.parametrize(
    ("name", "content", "kind", "told"),
    [
        ("none.txt", None, BadConfiguration, "none.txt: there is no such file"),
        ("empty.txt", b"\n \n", BadInput, "empty.txt: holds no prompt"),
        ("latin.txt", b"gr\xfcn\n", BadInput, "latin.txt: is not UTF-8 at byte 2"),
        ("odd.jsonl", b'{"messages": [{"role": "assistant"}]}\n', BadInput, "odd.jsonl:1: "),
        ("odd.jsonl", b'{"text": "a"}\n', BadInput, "odd.jsonl:1: is no conversation"),
    ],
)
def test_a_file_without_prompts_is_told(
    tmp_path: Path, name: str, content: bytes | None, kind: type[Exception], told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=told):
        read_prompts(tmp_path / name, None)


def test_a_random_record_is_one_that_was_set_aside_and_comes_again_by_its_seed(
    run: Found, store: Store
) -> None:
    held = load_records(store.dataset(run.artifact.manifest.lineage["dataset"].id) / "eval.jsonl")
    assert len(held) > 1
    drawn = [draw_record(run, store, seed).record for seed in range(20)]
    assert {record.source for record in drawn} == {record.source for record in held}
    assert [draw_record(run, store, seed).record for seed in range(20)] == drawn
    by_chance = draw_record(run, store, None)
    assert draw_record(run, store, by_chance.seed) == by_chance


def test_a_merged_model_learned_from_its_runs_data(run: Found, store: Store) -> None:
    model = Found(merge(run, store), run.base)
    assert draw_record(model, store, 3) == draw_record(run, store, 3)


def test_a_run_that_set_nothing_aside_shows_what_it_learned(tmp_path: Path, llama_folder: Path) -> None:
    data = {"train": "data.jsonl", "eval_fraction": 0}
    run = sealed_run(tmp_path, llama_folder, questions(3), data=data)
    assert draw_record(run, Store(tmp_path / "store"), 1).record.messages[1]["content"] == "The sky is blue."


def test_nothing_is_drawn_where_nothing_was_learned_or_it_is_not_known(run: Found, store: Store) -> None:
    with pytest.raises(BadConfiguration, match="is a base, which no run made"):
        draw_record(Found(run.base, run.base), store, 1)
    foreign = seal_drawn(store, run.base, {"base": run.base.source}, "foreign-0123456789", "adapter")
    with pytest.raises(BadConfiguration, match="nothing tells what foreign-0123456789 learned from"):
        draw_record(Found(foreign, run.base), store, 1)
