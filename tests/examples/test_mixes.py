"""The two mixes, as they are written but for the size, over small stand-ins of the Hub's datasets."""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hone_contract.data_spec import DataSpec, SourceSpec
from hone_contract.errors import BadInput
from hone_contract.run_spec import RunSpec
from hone_contract.spec_file import load_run_spec
from hone_contract.store import Store
from hone_trainer.data.sources import share_out
from hone_trainer.plan import prepare_data
from tests.examples.product import ROOT

MIXES = ROOT / "examples" / "mixes"
OWN: list[dict[str, str]] = json.loads((MIXES / "my_dataset.json").read_text(encoding="utf-8"))
STAND_INS = {
    "Open-Orca/SlimOrca": "orca.jsonl",
    "qiaojin/PubMedQA": "pubmed.parquet",
    "HuggingFaceH4/stack-exchange-preferences": "stack.jsonl",
}
TOTALS = {"small": 200, "large": 300}
Row = dict[str, Any]

each_mix = pytest.mark.parametrize("name", ["small", "large"])


# -- the stand-ins ---------------------------------------------------------------------------------

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]


def _prose(drawing: random.Random, count: int = 40) -> str:
    """Words that mean nothing, so that no keyword is among them."""
    return " ".join("".join(drawing.choices(_SYLLABLES, k=drawing.randint(2, 4))) for _ in range(count))


def _orca() -> list[Row]:
    drawing = random.Random(1)
    rows = []
    for number in range(150):
        system = {"from": "system", "value": f"You are assistant {number}.", "weight": None}
        asked = {"from": "human", "value": f"Question {number}: {_prose(drawing)}?", "weight": 0.0}
        answered = {"from": "gpt", "value": _prose(drawing), "weight": None if number % 7 == 0 else 1.0}
        if number % 10 == 0:
            system["value"] = ""
        rows.append({"conversations": [asked, answered] if number % 10 == 5 else [system, asked, answered]})
    near = json.loads(json.dumps(rows[:8]))
    for row in near:
        row["conversations"][-1]["value"] += " indeed"
    # No answer, and nothing at all.
    bad = [{"conversations": rows[1]["conversations"][:2]}, {"conversations": []}]
    return [*rows, *near, *bad]


def _pubmed() -> list[Row]:
    drawing = random.Random(2)
    rows = []
    for number in range(60):
        contexts = [_prose(drawing, 25) for _ in range(number % 3)]
        context = {"contexts": contexts, "labels": ["AIM"] * len(contexts), "meshes": ["Humans", "Adult"]}
        row = {
            "pubid": 20_000_000 + number,
            "question": f"Does treatment {number} help?",
            "context": {**context, "reasoning_required_pred": ["y"], "reasoning_free_pred": ["y"]},
            "long_answer": None if number == 33 else f"Treatment {number}: {_prose(drawing, 20)}.",
            "final_decision": None if number % 9 == 0 else drawing.choice(["yes", "no", "maybe"]),
        }
        rows.append(row)
    return [*rows, {**rows[1], "pubid": 1, "context": None}]


_TOPICS = {
    "stack-bio": ["a PROTEIN folds", "reading RNA-seq data", "which genomes", "two clinical trials"],
    "stack-ai": ["a neural network", "training with PyTorch", "some machine\nlearning", "(overfitting)"],
    "stack-ic": ["an FPGA board", "Verilog code", "CMOS, of course", "an op-amp"],
    # None of them is a word of the lists.
    "other": [
        "a loaf of bread",
        "the aspic and BiCMOS",
        "genomewide proteinlike Pytorchy",
        "neural networking",
    ],
}


def _stack() -> list[Row]:
    drawing = random.Random(3)
    rows = [
        _post(drawing, 1000 + number, drawing.choice(_TOPICS[topic]))
        for topic, number in ((topic, n + 100 * i) for i, topic in enumerate(_TOPICS) for n in range(65))
    ]
    both = [_post(drawing, 5000 + number, "a neural network for proteins") for number in range(5)]
    near = [
        {**row, "qid": 6000 + n, "question": row["question"] + "<p>Thanks</p>"}
        for n, row in enumerate(rows[:6])
    ]
    # A keyword in the answer alone, in an attribute, or in a comment.
    hidden = [
        _post(drawing, 7000 + number, "<a href='https://example.org/fpga'>x</a><!-- FPGA -->")
        for number in range(3)
    ]
    hidden[0]["answers"][0]["text"] += "<p>Use an FPGA and a neural network on proteins.</p>"
    bad = [{**rows[0], "qid": 8000, "answers": []}, {**rows[1], "qid": 8001, "question": None}]
    every = [*rows, *both, *near, *hidden, *bad]
    drawing.shuffle(every)
    return every


_CODE = "<pre><code>if (a &lt; b) {\n    list&lt;int&gt; c;\n}\n</code></pre>"


def _post(drawing: random.Random, qid: int, topic: str) -> Row:
    question = f"<p>Post {qid} on <em>{topic}</em>: {_prose(drawing)}</p>\n\n<p>Why&nbsp;so? &amp; how</p>\n"
    texts = [
        f"<p>Best of {qid}. {_prose(drawing)}</p>\n{_CODE}",
        f"<p>Worse of {qid}. {_prose(drawing)}</p>",
        f"<p>Worst of {qid}.</p><ul><li>no</li></ul>",
    ]
    scores = drawing.choice([[9, 2, -1], [3, None, 1], ["10", "9", "2"], [2, 1.5, None], [10, "9", 0]])
    answers = [
        {
            "answer_id": qid * 10 + index,
            "author": None if index else "someone",
            "author_id": -1,
            "author_profile": "https://stats.stackexchange.com/users/-1",
            "pm_score": score,
            "selected": index == 1,
            "text": text,
        }
        for index, (score, text) in enumerate(zip(scores, texts, strict=True))
    ]
    drawing.shuffle(answers)
    site = "https://stats.stackexchange.com"
    return {
        "qid": qid,
        "question": question,
        "answers": answers,
        "date": "2014/09/12",
        "metadata": [f"{site}/questions/{qid}", site, f"{site}/users/1/"],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixes")
    (folder / "my_dataset.json").write_bytes((MIXES / "my_dataset.json").read_bytes())
    for name, rows in (("orca", _orca()), ("stack", _stack())):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_pubmed()), folder / "pubmed.parquet")
    return folder


# -- the mixes, prepared ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A sealed mix."""

    data: DataSpec
    report: dict[str, Any]
    train: list[dict[str, Any]]
    held: list[dict[str, Any]]
    content: tuple[bytes, bytes]
    removed: list[dict[str, Any]]

    def records(self, name: str) -> list[dict[str, Any]]:
        """Of one source; those of Stack Exchange are of one file, and told apart by what they are about."""
        file = next(str(source.path) for source in self.data.sources if source.name == name)
        return [each for each in [*self.train, *self.held] if each["source"].startswith(f"{file}:")]


def _local(source: SourceSpec) -> SourceSpec:
    """The same source, with a file in the place of the dataset."""
    if source.hub is None:
        return source
    return source.model_copy(update={"hub": None, "config": None, "path": STAND_INS[source.hub]})


def _spec(name: str, **changed: Any) -> RunSpec:
    spec = load_run_spec(MIXES / f"{name}.yaml")
    assert spec.data is not None
    sources = [_local(source) for source in spec.data.sources]
    own = {"sources": sources, "total": TOTALS[name], **changed}
    return spec.model_copy(update={"data": spec.data.model_copy(update=own)})


def _prepare(folder: Path, store: Path, spec: RunSpec) -> Prepared:
    run = store.with_suffix(".json")
    run.write_text(spec.model_dump_json(), encoding="utf-8")
    for name in ("my_dataset.json", *STAND_INS.values()):
        if not (run.parent / name).exists():
            (run.parent / name).symlink_to(folder / name)
    loaded, dataset = prepare_data(run, None, Store(store))
    assert loaded.data is not None
    content = (dataset.path / "train.jsonl").read_bytes(), (dataset.path / "eval.jsonl").read_bytes()
    train, held = ([json.loads(line) for line in each.decode().split("\n") if line] for each in content)
    report = json.loads((dataset.path / "report.json").read_bytes())
    removed = [json.loads(line) for line in (dataset.path / "removed.jsonl").read_bytes().splitlines()]
    return Prepared(loaded.data, report, train, held, content, removed)


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = tmp_path_factory.mktemp("prepared")
    return cache(lambda name: _prepare(folder, made / name, _spec(name)))


@each_mix
def test_each_source_gives_its_share_to_the_record(prepared: Any, name: str) -> None:
    mix = prepared(name)
    shares = share_out(mix.data.sources, mix.data.total)
    given = [source["accepted"] + source["repeated"] for source in mix.report["sources"]]
    assert given == shares
    assert sum(given) == len(mix.train) + len(mix.held) == TOTALS[name]
    counted = Counter(record["source"].rpartition(":")[0] for record in [*mix.train, *mix.held])
    by_file = Counter[str]()
    for source, share in zip(mix.data.sources, shares, strict=True):
        by_file[str(source.path)] += share or 0
    assert counted == by_file


@each_mix
def test_every_row_that_was_read_is_accounted_for(prepared: Any, name: str) -> None:
    report = prepared(name).report
    assert report["read"] == report["accepted"] + report["rejected"] + report["removed"]
    reasons = Counter[str]()
    for source in report["sources"]:
        reasons.update(source["rejected"])
        reasons.update(source["removed"])
        assert source["unused_fields"] == {}
    assert reasons["near_duplicate"] >= 8
    assert reasons["no_answer"] == 1 and reasons["empty"] >= 1
    if name == "large":
        assert reasons["filtered"] > 300
        assert reasons["missing_column"] >= 4


@each_mix
def test_a_tenth_is_set_aside_and_is_not_learned(prepared: Any, name: str) -> None:
    mix = prepared(name)
    learned = {json.dumps(record["messages"]) for record in mix.train}
    held = {json.dumps(record["messages"]) for record in mix.held}
    assert not learned & held
    assert 0.04 < len(held) / len(learned | held) < 0.17


@each_mix
def test_own_reports_are_all_there_and_each_as_often_as_the_others(prepared: Any, name: str) -> None:
    mix = prepared(name)
    times = Counter(json.dumps(record["messages"], ensure_ascii=False) for record in mix.records("reports"))
    held = [record for record in mix.held if record["source"].startswith("my_dataset.json:")]
    assert len(times) == len(OWN)
    assert max(times.values()) - min(times[each] for each in times if times[each] > 1) <= 1
    for record in held:
        assert times[json.dumps(record["messages"], ensure_ascii=False)] == 1


@each_mix
def test_the_system_prompt_stands_before_all_that_have_none(prepared: Any, name: str) -> None:
    mix = prepared(name)
    for record in [*mix.train, *mix.held]:
        system, asked, answered = record["messages"]
        assert [message["role"] for message in (system, asked, answered)] == ["system", "user", "assistant"]
        number = re.match(r"Question (\d+):", asked["content"])
        own = number is not None and int(number[1]) % 5 != 0
        assert system["content"] == (f"You are assistant {number[1]}." if own and number else mix.data.system)
        assert mix.data.system.startswith("你是一位跨领域专家")


@each_mix
def test_what_is_given_beside_the_question_stands_where_the_guide_puts_it(prepared: Any, name: str) -> None:
    mix = prepared(name)
    wanted = {
        each["instruction"] + (f"\n\n补充信息：{each['input']}" if each["input"] else ""): each["output"]
        for each in OWN
    }
    for row in _pubmed():
        contexts = (row["context"] or {"contexts": []})["contexts"]
        more = "\n\n补充信息：" + "\n".join(contexts) if contexts else ""
        wanted[row["question"] + more] = row["long_answer"]
    records = [*mix.records("reports"), *mix.records("pubmed")]
    assert sum("补充信息：" in record["messages"][1]["content"] for record in records) > len(records) / 3
    for record in records:
        _, asked, answered = record["messages"]
        assert wanted[asked["content"]] == answered["content"]


def test_a_slice_has_no_record_without_one_of_its_keywords(prepared: Any) -> None:
    mix = prepared("large")
    slices = {source.name: source.include[0].keywords for source in mix.data.sources if source.include}
    records = mix.records("stack-ic")
    found = Counter[str]()
    for record in records:
        text = _folded(record["messages"][1]["content"])
        names = [name for name, words in slices.items() if any(_folded(word) in text for word in words)]
        assert names, text
        found[names[0]] += len(names) == 1
    shares = dict(
        zip((source.name for source in mix.data.sources), share_out(mix.data.sources, 300), strict=True)
    )
    assert {name: shares[name] for name in slices} == {"stack-bio": 42, "stack-ai": 45, "stack-ic": 45}
    # What is of two fields is in the slice that comes first, and counts there.
    assert found["stack-ic"] == 45
    assert 40 <= found["stack-ai"] <= 45 and 35 <= found["stack-bio"] <= 42


def test_of_a_post_the_best_answer_is_learned_and_no_tag_is_left(prepared: Any) -> None:
    for record in prepared("large").records("stack-ai"):
        _, asked, answered = (message["content"] for message in record["messages"])
        [qid] = re.findall(r"^Post (\d+) on ", asked)
        assert answered.startswith(f"Best of {qid}. ")
        assert answered.endswith("\nif (a < b) {\n    list<int> c;\n}")
        assert "\nWhy\xa0so? & how" in asked
        for text in (asked, answered):
            assert not re.search(r"</?(p|em|pre|code|a|ul|li)\b|&\w+;|<!--", text)


@each_mix
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    prepared: Any, folder: Path, tmp_path: Path, name: str
) -> None:
    first = prepared(name).content
    again = _prepare(folder, tmp_path / "again", _spec(name)).content
    other = _prepare(folder, tmp_path / "other", _spec(name, seed=43)).content
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]


@each_mix
def test_too_few_records_are_refused_unless_they_may_be_repeated(
    folder: Path, tmp_path: Path, name: str
) -> None:
    spec = _spec(name, total=1000)
    with pytest.raises(BadInput, match=r"orca: has 150 good records, (300|250) are wanted.*upsample: true"):
        _prepare(folder, tmp_path / "few", spec)
    assert not list((tmp_path / "few").rglob("report.json"))
    assert spec.data is not None
    sources = [source.model_copy(update={"upsample": True}) for source in spec.data.sources]
    mix = _prepare(folder, tmp_path / "repeated", _spec(name, total=1000, sources=sources))
    assert len(mix.train) + len(mix.held) == 1000


# -- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "total"), [("small", 2_000), ("large", 240_000)])
def test_a_mix_says_what_the_guide_says(name: str, total: int) -> None:
    spec = load_run_spec(MIXES / f"{name}.yaml")
    assert spec.data is not None
    assert (spec.data.total, spec.data.eval_fraction, spec.data.seed) == (total, 0.1, 42)
    assert sum(share or 0 for share in share_out(spec.data.sources, total)) == total
    assert spec.data.sources[0].path == "my_dataset.json"
    assert {source.hub for source in spec.data.sources[1:]} <= STAND_INS.keys()


def test_the_two_mixes_train_alike() -> None:
    small, large = (load_run_spec(MIXES / f"{name}.yaml") for name in ("small", "large"))
    assert small.model_dump(exclude={"name", "data"}) == large.model_dump(exclude={"name", "data"})
    assert small.data is not None and large.data is not None
    assert (small.data.system, small.data.join) == (large.data.system, large.data.join)


def test_own_reports_are_whole_and_no_two_are_alike() -> None:
    assert len(OWN) == 24
    for record in OWN:
        assert list(record) == ["instruction", "input", "output"]
        assert record["instruction"] and len(record["output"].encode()) > 200
        assert all(text == text.strip() for text in record.values())
    assert sum(bool(record["input"]) for record in OWN) == 12
    assert sum(bool(re.search("[\u4e00-\u9fff]", record["output"])) for record in OWN) == 12
    assert len({record["instruction"] for record in OWN}) == len({record["output"] for record in OWN}) == 24


def _folded(text: str) -> str:
    """Its words, with a blank around each."""
    return " " + " ".join(re.findall(r"[a-z0-9]+", text.lower())) + " "
