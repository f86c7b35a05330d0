"""Datasets from the Hub, read as a stream from one on this machine."""

import io
import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from trainer_cli import run_trainer
from trainer_hub import COMMIT, Hub, serving
from trainer_stream import Reader, reading

from hone_contract.artifact import open_artifact
from hone_contract.store import Store

pytestmark = pytest.mark.chain

Rows = list[dict[str, Any]]
_numbers = count()


@pytest.fixture(scope="module")
def _served() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def reader(_served: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with reading(tmp_path_factory.mktemp("reader"), _served.environment) as process:
        yield process


@pytest.fixture
def hub(_served: Hub) -> Hub:
    """With a dataset's name that was not used before, since the libraries remember what they saw."""
    _served.kind, _served.repository = "datasets", f"some/data-{next(_numbers)}"
    _served.files, _served.status, _served.lost = {}, 404, set()
    _served.asked.clear()
    return _served


def rows(number: int, mark: str = "") -> Rows:
    return [{"prompt": f"{mark}question {n}", "completion": f"answer {n}"} for n in range(1, number + 1)]


def parquet(values: Rows) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), file)
    return file.getvalue()


def jsonl(values: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def test_every_row_of_every_file_comes_once_with_the_number_that_it_has_there(
    hub: Hub, reader: Reader
) -> None:
    written = {f"data/train-0000{n}.parquet": rows(20, f"{n}: ") for n in range(7)}
    hub.files = {name: parquet(values) for name, values in written.items()}
    streamed = reader.read(hub.repository)
    assert streamed.error == ""
    found = {(name, line): value for name, line, value in streamed.rows}
    assert len(streamed.rows) == len(found) == 140
    for name, values in written.items():
        for line, value in enumerate(values, 1):
            assert found[f"{hub.repository}/{name}", line] == value


def test_lines_of_json_keep_nulls_lists_and_every_character(hub: Hub, reader: Reader) -> None:
    values: Rows = [
        {"conversations": [{"from": "human", "value": '芯片\u2028 \\ "', "weight": None}], "n": None},
        {"conversations": [{"from": "gpt", "value": "", "weight": 1.0}], "n": 3},
    ]
    hub.files = {"oo-labeled.jsonl": jsonl(values)}
    streamed = reader.read(hub.repository)
    assert sorted((line, value) for _, line, value in streamed.rows) == list(enumerate(values, 1))


def test_the_order_is_drawn_with_the_seed(hub: Hub, reader: Reader) -> None:
    hub.files = {f"train-{n}.jsonl": jsonl(rows(60, f"{n}: ")) for n in range(3)}
    first, again, other = (reader.read(hub.repository, seed=seed, limit=50).rows for seed in (1, 1, 2))
    assert first == again
    assert first != other
    # Drawn from every file, and not its beginning.
    assert len({name for name, _, _ in first}) == 3
    assert max(line for _, line, _ in first) > 50


def test_what_is_held_back_is_drawn_from_all_that_was_read(hub: Hub, reader: Reader) -> None:
    hub.files = {"train.jsonl": jsonl(rows(200))}
    streamed = reader.read(hub.repository, buffer=20)
    lines = [line for _, line, _ in streamed.rows]
    assert sorted(lines) == list(range(1, 201))
    assert lines != sorted(lines)


def test_a_file_that_is_not_needed_is_not_read(hub: Hub, reader: Reader) -> None:
    hub.files = {f"train-{n}.parquet": parquet(rows(50)) for n in range(9)}
    assert len(reader.read(hub.repository, limit=20, buffer=20).rows) == 20
    # The first is looked at for its columns.
    read = {path.rpartition("/")[2] for path, _ in hub.asked if path.endswith(".parquet")}
    assert 4 <= len(read) <= 5


@pytest.mark.parametrize("revision", [None, "v1.0", COMMIT])
def test_a_revision_is_resolved_and_its_commit_is_read(
    hub: Hub, reader: Reader, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "revisions", {*hub.revisions, "v1.0"})
    hub.files = {"train.jsonl": jsonl(rows(3))}
    streamed = reader.read(hub.repository, **({"revision": revision} if revision else {}))
    assert (streamed.commit, len(streamed.rows)) == (COMMIT, 3)
    read = {path for path, _ in hub.asked if "/resolve/" in path}
    assert all(f"/resolve/{COMMIT}/" in path for path in read), read


def test_the_older_name_of_the_token_is_sent_to_every_route(hub: Hub, reader: Reader) -> None:
    hub.files = {"train.parquet": parquet(rows(3))}
    assert len(reader.read(hub.repository, token="hf_older").rows) == 3
    assert {token for path, token in hub.asked if hub.repository in path} == {"Bearer hf_older"}


def test_a_configuration_of_several_is_read(hub: Hub, reader: Reader) -> None:
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in ("pqa_artificial", "pqa_labeled")
    )
    hub.files = {
        "README.md": f"{card}---\n".encode(),
        "pqa_artificial/train-00000.parquet": parquet(rows(2, "artificial ")),
        "pqa_labeled/train-00000.parquet": parquet(rows(2, "labeled ")),
    }
    streamed = reader.read(hub.repository, config="pqa_labeled")
    assert sorted(value["prompt"] for _, _, value in streamed.rows) == [
        "labeled question 1",
        "labeled question 2",
    ]
    for unknown in ({}, {"config": "pqa_unlabeled"}):
        refused = reader.read(hub.repository, **unknown)
        assert refused.error == "BadConfiguration"
        assert "pqa_artificial" in refused.message and "pqa_labeled" in refused.message
        assert "\n" not in refused.message


def test_an_unknown_split_is_refused_with_those_that_there_are(hub: Hub, reader: Reader) -> None:
    hub.files = {"train.jsonl": jsonl(rows(3)), "test.jsonl": jsonl(rows(2))}
    refused = reader.read(hub.repository, split="validation")
    assert refused.error == "BadConfiguration"
    assert "has no split 'validation'; it has train, test" in refused.message
    assert len(reader.read(hub.repository, split="test").rows) == 2


@pytest.mark.parametrize("asked", [{"hub": "some/other"}, {"revision": "v9"}, {"hub": "no id at all"}])
def test_an_unknown_dataset_or_revision_is_bad_configuration(
    hub: Hub, reader: Reader, asked: dict[str, str]
) -> None:
    refused = reader.read(**{"hub": hub.repository, **asked})
    assert refused.error == "BadConfiguration"
    assert f"the Hub has no dataset {asked.get('hub', hub.repository)!r}" in refused.message
    assert "HF_TOKEN" in refused.message


@pytest.mark.parametrize(
    "files", [{}, {"README.md": b"Nothing yet."}, {"{name}.py": b"raise SystemExit"}, {"data.bin": b"\x00"}]
)
def test_a_dataset_without_files_that_can_be_read_is_bad_configuration(
    hub: Hub, reader: Reader, files: dict[str, bytes]
) -> None:
    name = hub.repository.partition("/")[2]
    hub.files = {path.format(name=name): body for path, body in files.items()}
    assert reader.read(hub.repository).error == "BadConfiguration"


def test_a_folder_of_that_name_is_not_taken_for_the_dataset(hub: Hub, reader: Reader) -> None:
    here = reader.folder / hub.repository
    here.mkdir(parents=True)
    (here / "train.jsonl").write_bytes(jsonl(rows(9)))
    hub.files = {"train.jsonl": jsonl(rows(3))}
    assert len(reader.read(hub.repository).rows) == 3


@pytest.mark.parametrize("second", [b"no Parquet", parquet([{"other": 1}])])
def test_a_broken_file_is_bad_input(hub: Hub, reader: Reader, second: bytes) -> None:
    hub.files = {"train-0.parquet": parquet(rows(3)), "train-1.parquet": second}
    refused = reader.read(hub.repository)
    assert refused.error == "BadInput"
    assert f"{hub.repository}: a file cannot be read" in refused.message
    assert "\n" not in refused.message


def test_a_hub_that_goes_away_midway_may_be_asked_again(hub: Hub, reader: Reader) -> None:
    hub.files = {f"train-{n}.parquet": parquet(rows(30)) for n in range(6)}
    # The last in the order that is drawn with this seed.
    hub.lost = {"train-2.parquet"}
    streamed = reader.read(hub.repository, buffer=10)
    assert streamed.error == "RetryableFailure"
    assert f"'{hub.repository}' cannot be read from the Hub" in streamed.message
    assert streamed.rows


def test_a_hub_that_fails_may_be_asked_again(hub: Hub, reader: Reader) -> None:
    hub.repository, asked, hub.status = "", hub.repository, 500
    assert reader.read(asked).error == "RetryableFailure"


# -- the command -----------------------------------------------------------------------------------


def test_a_source_on_the_hub_is_prepared_with_its_commit_and_no_more_rows_than_needed(
    hub: Hub, tmp_path: Path, store: Store
) -> None:
    hub.files = {f"train-{n}.parquet": parquet(rows(500, f"{n}: ")) for n in range(2)}
    spec = {
        "model": {"name": "some/base"},
        "data": {"sources": [{"hub": hub.repository, "count": 40, "name": "stream"}]},
    }
    (tmp_path / "run.json").write_text(json.dumps(spec), encoding="utf-8")
    home = {"HF_HOME": str(tmp_path / "hf")}
    done = run_trainer(tmp_path, "prepare", "run.json", **hub.environment, **home, HF_TOKEN="hf_secret")
    assert done.code == 0, done.err
    dataset = open_artifact(store.dataset(done.out.strip()), "dataset", digests=True)
    assert dataset.manifest.lineage["train"].id == f"hub:{hub.repository}@{COMMIT}"
    report = json.loads((dataset.path / "report.json").read_bytes())
    assert report["train_records"] + report["eval_records"] == 40
    assert report["read"] == 40 + 4 + 100
    for line in (dataset.path / "train.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        name, _, number = record["source"].rpartition(":")
        file = name.removeprefix(f"{hub.repository}/train-").removesuffix(".parquet")
        assert record["messages"][0]["content"] == f"{file}: question {number}"
    assert {token for path, token in hub.asked if hub.repository in path} == {"Bearer hf_secret"}
    assert "hf_secret" not in done.out + done.err
    assert not list((tmp_path / "hf").rglob("*.parquet"))
