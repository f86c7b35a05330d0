"""The sealed dataset: its split, its name, its report, and that nothing is written of refused data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trainer_accounting import account_of
from trainer_tiny import CHATML, line, questions, write_lines

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.data_spec import DataSpec
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_trainer.base import import_base, locate
from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.chat.conversation import see
from hone_trainer.data.dataset import Counting
from hone_trainer.data.dataset import prepare as prepare_counted
from hone_trainer.data.tokeniser import Tokeniser
from hone_trainer.record import load_records

REPORTER = Reporter("trainer")
UNCOUNTED = Counting(known=None, fetch=None, longest=2048)


def prepare(folder: Path, store: Store, **data: Any) -> Artifact:
    spec = DataSpec.model_validate({"train": "data.jsonl", **data})
    return prepare_counted(spec, folder, store, UNCOUNTED, REPORTER)


def sources(dataset: Artifact, name: str) -> list[str]:
    """Where the records of one part came from."""
    return [record.source for record in load_records(dataset.path / f"{name}.jsonl")]


def lines(name: str, *numbers: int) -> list[str]:
    return [f"{name}:{number}" for number in numbers]


# -- the split -------------------------------------------------------------------------------------


def test_every_record_is_in_one_part_and_keeps_its_order(store: Store, data_file: Path) -> None:
    dataset = prepare(data_file.parent, store, eval_fraction=0.25)
    train, evaluation = sources(dataset, "train"), sources(dataset, "eval")
    assert train and evaluation
    everything = lines("data.jsonl", *range(1, 25))
    assert sorted(train + evaluation) == sorted(everything)
    assert train == [each for each in everything if each in train]
    assert evaluation == [each for each in everything if each in evaluation]


def test_the_split_is_the_same_every_time_and_another_with_another_seed(
    tmp_path: Path, data_file: Path
) -> None:
    def held_out(store: str, seed: int) -> list[str]:
        dataset = prepare(data_file.parent, Store(tmp_path / store), eval_fraction=0.25, seed=seed)
        return sources(dataset, "eval")

    assert held_out("one", 42) == held_out("two", 42)
    assert held_out("one", 42) != held_out("one", 43)


def test_a_record_stays_on_its_side_when_others_are_added(tmp_path: Path, store: Store) -> None:
    def held_out(count: int) -> set[str]:
        write_lines(tmp_path / "data.jsonl", questions(count))
        return set(sources(prepare(tmp_path, store, eval_fraction=0.25), "eval"))

    few, many = held_out(40), held_out(80)
    assert few == {place for place in many if int(place.rpartition(":")[2]) <= 40}


@pytest.mark.parametrize(
    ("records", "how", "evaluated"),
    [
        (1, {"eval_fraction": 0.1}, 0),
        (1, {"eval_fraction": 0.9}, 0),
        (2, {"eval_fraction": 0.01}, 1),
        (2, {"eval_fraction": 0.99}, 1),
        (4, {"eval_fraction": 0.0}, 0),
        (10, {"eval_count": 3}, 3),
        (3, {"eval_count": 5}, 2),
    ],
)
def test_something_is_left_to_learn_and_if_possible_to_be_judged_by(
    tmp_path: Path, store: Store, records: int, how: dict[str, Any], evaluated: int
) -> None:
    write_lines(tmp_path / "data.jsonl", questions(records))
    dataset = prepare(tmp_path, store, **how)
    assert len(sources(dataset, "eval")) == evaluated
    assert len(sources(dataset, "train")) == records - evaluated


def test_an_evaluation_file_is_taken_whole_and_what_repeats_it_is_not_learned(
    tmp_path: Path, store: Store
) -> None:
    write_lines(tmp_path / "data.jsonl", questions(6))
    write_lines(tmp_path / "held_out.jsonl", questions(2))
    dataset = prepare(tmp_path, store, eval="held_out.jsonl", eval_fraction=0.5)
    assert sources(dataset, "train") == lines("data.jsonl", 3, 4, 5, 6)
    assert sources(dataset, "eval") == lines("held_out.jsonl", 1, 2)
    assert account_of(dataset).reasons == dict.fromkeys(lines("data.jsonl", 1, 2), "eval_leak")
    assert dataset.manifest.lineage.keys() == {"train", "eval"}


# -- what is sealed --------------------------------------------------------------------------------


def test_a_dataset_is_sealed_with_a_report_and_where_it_came_from(store: Store, data_file: Path) -> None:
    made = prepare(data_file.parent, store)
    dataset = open_artifact(store.dataset(made.manifest.id), "dataset", digests=True)
    assert dataset.manifest.id.startswith("data-")
    assert dataset.manifest.lineage["train"].id == "data.jsonl"
    report = account_of(dataset).report
    assert (report["read"], report["accepted"], report["rejected"], report["removed"]) == (24, 24, 0, 0)
    assert report["sources"][0]["forms"] == {"messages": 24}
    page = (dataset.path / "report.html").read_text(encoding="utf-8")
    assert "24 rows were read: 24 accepted, 0 rejected" in page


def test_texts_are_trimmed_and_fields_without_a_meaning_are_reported(tmp_path: Path, store: Store) -> None:
    messages = json.loads(line(("user", "  Hi?\r\n"), ("assistant", "\tHello.  ")))
    write_lines(tmp_path / "data.jsonl", [json.dumps({**messages, "weight": 1}), *questions(2)])
    account = account_of(prepare(tmp_path, store, eval_fraction=0))
    assert [message["content"] for message in account.train[0].messages] == ["Hi?", "Hello."]
    assert account.report["sources"][0]["unused_fields"] == {"weight": 1}
    assert any("'weight' of 1 rows has no meaning" in note for note in account.report["notes"])


def test_many_fields_without_a_meaning_do_not_fill_the_report(tmp_path: Path, store: Store) -> None:
    strange = {"text": "a", "\ud83d": 1, "\x1b[2J": 1, "k" * 100_000: 1}
    many = {"text": "b", **dict.fromkeys(map(str, range(5000)), 1)}
    write_lines(tmp_path / "data.jsonl", map(json.dumps, (strange, many)))
    report = account_of(prepare(tmp_path, store)).report
    unused = report["sources"][0]["unused_fields"]
    assert {r"\ud83d", r"\x1b[2J", "k" * 60 + "…"} < unused.keys()
    assert len(unused) <= 200 and len(report["notes"]) < 20


def test_what_a_bad_row_holds_is_text_in_the_page(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "data.jsonl", [*questions(3), '{"<script>alert(1)</script>": 1}'])
    page = (prepare(tmp_path, store, max_rejected=0.5).path / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page and "<script>" not in page


def test_preparing_twice_writes_once(store: Store, data_file: Path) -> None:
    first = prepare(data_file.parent, store)
    written = (first.path / "train.jsonl").stat().st_mtime_ns
    assert prepare(data_file.parent, store) == first
    assert (first.path / "train.jsonl").stat().st_mtime_ns == written


def test_other_content_or_another_split_is_another_dataset(store: Store, data_file: Path) -> None:
    def name(**how: object) -> str:
        return prepare(data_file.parent, store, **how).manifest.id

    ids = [name(), name(seed=1), name(eval_fraction=0.5), name(clean={"trim": False})]
    write_lines(data_file, questions(23))
    ids.append(name())
    write_lines(data_file.with_name("more.jsonl"), questions(1))
    ids.append(name(eval="more.jsonl"))
    assert len(set(ids)) == 6


def test_files_of_one_name_in_two_folders_both_count(tmp_path: Path, store: Store) -> None:
    def name() -> str:
        return prepare(tmp_path, store, train=["a/data.jsonl", "b/data.jsonl"]).manifest.id

    for folder, record in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "data.jsonl", [questions(9)[record]])
    first = name()
    write_lines(tmp_path / "a" / "data.jsonl", [questions(9)[2]])
    assert name() != first


def test_where_the_files_lie_does_not_count(tmp_path: Path, store: Store, data_file: Path) -> None:
    here = prepare(data_file.parent, store)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(data_file, tmp_path / "elsewhere")
    assert prepare(tmp_path / "elsewhere", store) == here
    assert prepare(tmp_path, store, train="elsewhere/data.jsonl") == here


def test_the_name_comes_from_the_file_and_fits_the_store(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "Meine Daten (2).jsonl", questions(2))
    write_lines(tmp_path / "データ.jsonl", questions(2))
    named = prepare(tmp_path, store, train="Meine Daten (2).jsonl").manifest.id
    assert named.rpartition("-")[0] == "meine-daten-2"
    assert prepare(tmp_path, store, train="データ.jsonl").manifest.id.startswith("data-")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["train", "eval"])
def test_nothing_is_written_when_too_many_records_are_bad(tmp_path: Path, store: Store, bad: str) -> None:
    for name in ("train", "eval"):
        write_lines(tmp_path / f"{name}.jsonl", questions(3) + ["{"] * (name == bad))
    told = rf"1 of 7 records are bad, and data\.max_rejected 0\.05 allows 0; .*\n +{bad}\.jsonl:4: not JSON"
    with pytest.raises(BadInput, match=told):
        prepare(tmp_path, store, train="train.jsonl", eval="eval.jsonl")
    assert not store.root.exists()


def test_a_few_bad_records_are_left_out_and_the_first_refuses_what_is_taken_strictly(
    tmp_path: Path, store: Store
) -> None:
    write_lines(tmp_path / "data.jsonl", [*questions(19), "{"])
    assert account_of(prepare(tmp_path, store)).reasons == {"data.jsonl:20": "not_json"}
    with pytest.raises(BadInput, match=r"^data\.jsonl:20: not JSON"):
        prepare(tmp_path, store, strict=True)


def test_of_many_bad_records_ten_are_told(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "data.jsonl", ["[]"] * 25)
    with pytest.raises(BadInput) as caught:
        prepare(tmp_path, store)
    _, *told, more = str(caught.value).split("\n")
    assert [each.strip().split(": ")[0] for each in told] == lines("data.jsonl", *range(1, 11))
    assert more.strip() == "… and 15 more"


def test_when_nothing_is_left_to_learn_from_the_reasons_are_told(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "data.jsonl", [*questions(2), "{"])
    write_lines(tmp_path / "eval.jsonl", questions(2))
    told = "no record is left to learn from; of 5 that were read: 2 eval leak, 1 not json"
    with pytest.raises(BadInput, match=told):
        prepare(tmp_path, store, eval="eval.jsonl", max_rejected=0.5)
    assert not store.root.exists()


def test_nothing_is_written_when_the_evaluation_file_is_missing(store: Store, data_file: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"none\.jsonl: there is no such file"):
        prepare(data_file.parent, store, eval="none.jsonl")
    assert not store.root.exists()


# -- tokens ----------------------------------------------------------------------------------------


@pytest.fixture
def tokeniser(llama_folder: Path, store: Store) -> Tokeniser:
    return Tokeniser(import_base(locate(str(llama_folder), None), store), CHATML)


def test_records_are_counted_with_the_base_that_they_train(
    store: Store, data_file: Path, tokeniser: Tokeniser
) -> None:
    counting = Counting(known=tokeniser, fetch=None, longest=2048)
    dataset = prepare_counted(DataSpec(train="data.jsonl"), data_file.parent, store, counting, REPORTER)
    tokens = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))["tokens"]
    tokenizer = load_tokenizer(tokeniser.folder, CHATML)
    seen = [see(tokenizer, record) for record in load_records(dataset.path / "train.jsonl")]
    assert tokens["base"] == "tiny-llama"
    assert tokens["per_epoch"] == sum(len(each.ids) for each in seen)
    assert tokens["learned_per_epoch"] == sum(sum(each.learned) for each in seen)
    assert tokens["longest"] == max(len(each.ids) for each in seen)
    assert sum(bar["records"] for bar in tokens["histogram"]) == len(seen)
    assert dataset.manifest.id != prepare(data_file.parent, store).manifest.id


def test_records_that_are_too_long_or_too_short_are_rejected_with_their_line(
    tmp_path: Path, store: Store, tokeniser: Tokeniser
) -> None:
    odd = [line(("user", "Hi?"), ("assistant", "blue " * 100)), line(("user", "?"), ("assistant", "!"))]
    write_lines(tmp_path / "data.jsonl", [*questions(38), *odd])
    data = DataSpec(train="data.jsonl", min_tokens=20)
    counting = Counting(known=tokeniser, fetch=None, longest=64)
    dataset = prepare_counted(data, tmp_path, store, counting, REPORTER)
    rejected = [json.loads(each) for each in (dataset.path / "rejected.jsonl").open(encoding="utf-8")]
    assert [(each["line"], each["reason"]) for each in rejected] == [(39, "too_long"), (40, "too_short")]


def test_the_base_is_fetched_only_when_the_data_was_found_good(tmp_path: Path, store: Store) -> None:
    def fetch() -> Tokeniser:
        raise AssertionError("the base was fetched")

    write_lines(tmp_path / "data.jsonl", ["{"])
    with pytest.raises(BadInput, match="not JSON"):
        counting = Counting(known=None, fetch=fetch, longest=64)
        prepare_counted(DataSpec(train="data.jsonl"), tmp_path, store, counting, REPORTER)


@pytest.mark.chain
def test_many_records_are_counted_on_all_cores_in_their_order(tokeniser: Tokeniser) -> None:
    lines_ = [each.encode() + b"\n" for each in _records(3000)]
    measured = list(tokeniser.measure(lines_, len(lines_)))
    assert len(measured) == 3000
    assert [each.tokens for each in measured[:100]] == [
        each.tokens for each in tokeniser.measure(lines_[:100], 100)
    ]


def _records(count: int) -> list[str]:
    return [
        json.dumps({**json.loads(each), "source": f"data.jsonl:{number}"})
        for number, each in enumerate(questions(count), 1)
    ]


# -- what decides a dataset's identity, and what does not -------------------------------------------

_PREPARE = """
import sys
from pathlib import Path
from hone_contract.data_spec import DataSpec
from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_trainer.data.dataset import Counting, prepare
folder = Path(sys.argv[1])
made = prepare(
    DataSpec(train="data.jsonl"), folder, Store(folder / sys.argv[2]), Counting(None, None, 64), Reporter("t")
)
print(made.manifest.digest)
"""


def test_the_same_data_makes_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a"} | {f"field {number}": number for number in range(9)}
    write_lines(tmp_path / "data.jsonl", [json.dumps(row), *questions(3)])
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PREPARE, str(tmp_path), f"store-{seed}"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1


def test_a_dataset_with_a_bad_row_is_not_taken_for_a_strict_one(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "data.jsonl", [*questions(3), "{"])
    prepare(tmp_path, store, max_rejected=0.5)
    with pytest.raises(BadInput, match=r"^data\.jsonl:4: not JSON"):
        prepare(tmp_path, store, max_rejected=0.5, strict=True)


# -- evaluation that can be trusted ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_copies_that_are_kept_are_on_one_side(tmp_path: Path, store: Store, seed: int) -> None:
    lines_ = [line(("user", q), ("assistant", "a")) for q in ("q", "q", "z", "q", "y", "z")]
    write_lines(tmp_path / "data.jsonl", lines_)
    dataset = prepare(tmp_path, store, clean={"duplicates": False}, eval_count=1, seed=seed)
    sides = [
        {str(record.messages) for record in load_records(dataset.path / f"{name}.jsonl")}
        for name in ("train", "eval")
    ]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_a_leak_is_recognised_whatever_the_system_prompts(tmp_path: Path, store: Store) -> None:
    write_lines(tmp_path / "data.jsonl", questions(4))
    write_lines(tmp_path / "eval.jsonl", [line(("system", "Be kind."), *_turns(questions(4)[1]))])
    dataset = prepare(tmp_path, store, eval="eval.jsonl", system="You are X.")
    assert sources(dataset, "train") == lines("data.jsonl", 1, 3, 4)
    removed = [json.loads(each) for each in (dataset.path / "removed.jsonl").open(encoding="utf-8")]
    assert [(row["line"], row["reason"], row["of"]) for row in removed] == [(2, "eval_leak", "eval.jsonl:1")]


def _turns(record: str) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in json.loads(record)["messages"]]


@pytest.mark.parametrize("bad", ["train", "eval"])
def test_a_source_of_which_every_row_is_bad_is_refused(tmp_path: Path, store: Store, bad: str) -> None:
    for name in ("train", "eval"):
        write_lines(tmp_path / f"{name}.jsonl", ['{"q": 1}'] if name == bad else questions(100))
    with pytest.raises(
        BadInput, match=rf"^{bad}\.jsonl: every record is bad\n +{bad}\.jsonl:1: is in no known"
    ):
        prepare(tmp_path, store, train="train.jsonl", eval="eval.jsonl")


# -- texts -----------------------------------------------------------------------------------------


def test_a_formatted_record_is_cleaned_as_any_other(tmp_path: Path, store: Store) -> None:
    row = {"q": "a\r\nb", "a": "e\u0301\r\n"}
    write_lines(tmp_path / "data.jsonl", [json.dumps(row)])
    dataset = prepare(tmp_path, store, format="Q: {q}\r\nA: {a}", clean={"nfc": True}, eval_fraction=0)
    [record] = load_records(dataset.path / "train.jsonl")
    assert record.text == "Q: a\nb\nA: \u00e9\n"
    assert record.trained == [[len("Q: a\nb\nA: "), len(record.text)]]


def test_a_column_that_is_empty_does_not_decide_the_form(tmp_path: Path, store: Store) -> None:
    row = {"messages": None, "prompt": "q", "completion": "a"}
    write_lines(tmp_path / "data.jsonl", [json.dumps(row)])
    [record] = load_records(prepare(tmp_path, store, eval_fraction=0).path / "train.jsonl")
    assert [message["content"] for message in record.messages] == ["q", "a"]
