"""What a server remembers of versions, and what becomes of it."""

import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from server_samples import Notes
from swap_samples import NAME, publish, remembered, start

from hone_contract.artifact import Artifact, remove
from hone_contract.errors import BadInput, RetryableFailure
from hone_contract.store import Store
from hone_server import record as record_module
from hone_server.current import Serving
from hone_server.record import Memory, Record, record_path


def _remade(store: Store, model: Artifact) -> Artifact:
    shutil.rmtree(model.path)
    return publish(store, model.path.name, 7.0)


def test_of_an_unknown_version_nothing_is_held_against_it(store: Store) -> None:
    assert Record().refusal(publish(store, "v1")) is None


def test_a_version_that_is_found_being_tried_brought_the_server_down(store: Store) -> None:
    model = publish(store, "v1")
    found = Record().trying(model).at_a_start()
    assert "went down" in (found.refusal(model) or "")
    assert found.refusal(publish(store, "v2")) is None
    assert found.attempted is None


def test_one_that_passed_may_be_tried_again(store: Store) -> None:
    model = publish(store, "v1")
    record = Record().having_refused(model, "bad").trying(model).having_passed(model)
    assert record.refusal(model) is None
    assert (record.passed, record.refused, record.attempted) == (["v1"], [], None)


def test_the_latest_that_passed_is_last_and_named_once(store: Store) -> None:
    first, second = publish(store, "v1"), publish(store, "v2")
    record = Record().having_passed(first).having_passed(second).having_passed(first)
    assert record.passed == ["v2", "v1"]


def test_a_refused_version_is_refused_with_its_reason(store: Store) -> None:
    model = publish(store, "v1")
    record = Record().trying(model).having_refused(model, "wrong numbers")
    assert record.refusal(model) == "wrong numbers"
    assert record.attempted is None


def test_a_second_refusal_replaces_the_first(store: Store) -> None:
    model = publish(store, "v1")
    record = Record().having_refused(model, "one").having_refused(model, "two")
    assert [each.reason for each in record.refused] == ["two"]


def test_a_version_that_was_given_up_may_be_tried_again(store: Store) -> None:
    model = publish(store, "v1")
    assert Record().trying(model).having_given_up().at_a_start().refusal(model) is None


@pytest.mark.parametrize("how", ["refused", "attempted"])
def test_a_version_that_is_made_anew_is_another(store: Store, how: str) -> None:
    model = publish(store, "v1")
    record = (
        Record().having_refused(model, "bad") if how == "refused" else Record().trying(model).at_a_start()
    )
    assert record.refusal(_remade(store, model)) is None


def test_only_the_latest_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "_KEPT", 2)
    models = [publish(store, f"v{number}") for number in (1, 2, 3)]
    passed, refused = Record(), Record()
    for model in models:
        passed, refused = passed.having_passed(model), refused.having_refused(model, "bad")
    assert passed.passed == ["v2", "v3"]
    assert [each.version for each in refused.refused] == ["v2", "v3"]


def test_it_outlives_the_server(tmp_path: Path, store: Store) -> None:
    first, second, third = (publish(store, version) for version in ("v1", "v2", "v3"))
    path = tmp_path / "state" / "record.json"
    memory = Memory(path, Notes())
    memory.passed(first)
    memory.refused(second, "bad")
    memory.trying(third)
    found = Memory(path, Notes())
    assert found.record == memory.record.at_a_start()
    assert found.record.refusal(second) == "bad"
    assert "went down" in (found.record.refusal(third) or "")
    found.passed(third)
    assert Memory(path, Notes()).record.refusal(third) is None


@pytest.mark.parametrize(
    "left",
    [b"", b"no JSON", b"\xff\xfe", b'{"passed": "v1"}', b'{"unknown": 1}', b"[]"],
    ids=["empty", "text", "bytes", "wrong type", "unknown key", "list"],
)
def test_what_cannot_be_read_counts_for_nothing(tmp_path: Path, store: Store, left: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(left)
    memory = Memory(path, Notes())
    assert memory.record == Record()
    memory.passed(publish(store, "v1"))
    assert Memory(path, Notes()).record.passed == ["v1"]


def test_a_folder_in_its_place_counts_for_nothing(tmp_path: Path) -> None:
    assert Memory(tmp_path, Notes()).record == Record()


def test_a_folder_that_cannot_be_written_to_is_told_once(tmp_path: Path, store: Store) -> None:
    # Permissions would not keep out root, who runs the tests in a container.
    (tmp_path / "state").write_text("a file where the folder should be")
    notes = Notes()
    memory = Memory(tmp_path / "state" / "record.json", notes)
    model = publish(store, "v1")
    memory.trying(model)
    memory.passed(model)
    assert memory.record.passed == ["v1"]
    [told] = notes.named("record_not_kept")
    assert "HONE_STATE" in told


def test_servers_that_differ_have_records_of_their_own(tmp_path: Path, store: Store) -> None:
    def path(root: Path = store.root, name: str = NAME, port: int = 8000) -> Path:
        return record_path(tmp_path, root, name, port)

    others = {path(root=tmp_path / "other"), path(name="other"), path(port=8001)}
    assert len(others | {path()}) == 4
    assert path() == path()


def test_a_store_is_the_same_by_whatever_path(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.root.mkdir()
    (tmp_path / "link").symlink_to(store.root)
    monkeypatch.chdir(tmp_path)
    paths = {
        record_path(tmp_path, root, NAME, 8000) for root in (store.root, tmp_path / "link", Path("store"))
    }
    assert len(paths) == 1


def _passed(serving: Serving, _: socket.socket) -> None:
    serving.memory.passed(serving.model)


def _refused(serving: Serving, _: socket.socket) -> None:
    serving.memory.refused(serving.model, "wrong numbers")
    raise BadInput("wrong numbers")


def _live(store: Store, version: str) -> Artifact:
    model = publish(store, version)
    store.point_live(NAME, version)
    return model


def test_a_version_is_marked_until_it_has_passed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _live(store, "v1")

    def look(serving: Serving, listening: socket.socket) -> None:
        assert remembered(store).refusal(model) is not None, "as a start would find it"
        _passed(serving, listening)

    assert start(monkeypatch, store, look) == []
    assert remembered(store) == Record(passed=["v1"])


def test_a_version_that_brought_the_server_down_is_not_tried_again_after_the_next_start(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _live(store, "v1")
    start(monkeypatch, store, _passed)
    fatal = _live(store, "v2")

    def crash(_: Serving, __: socket.socket) -> None:
        raise RetryableFailure("the engine died")

    with pytest.raises(RetryableFailure):
        start(monkeypatch, store, crash)
    served: list[str] = []

    def serve(serving: Serving, listening: socket.socket) -> None:
        served.append(serving.model.path.name)
        _passed(serving, listening)
        # What follows `live` asks this before it tries a version.
        assert serving.memory.record.refusal(fatal) is not None

    start(monkeypatch, store, serve)
    assert served == ["v1"]


def test_a_version_that_is_refused_at_the_start_gives_way_to_one_that_passed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _live(store, "v1")
    start(monkeypatch, store, _passed)
    _live(store, "v2")
    assert len(start(monkeypatch, store, _refused)) == 1
    served: list[str] = []
    start(monkeypatch, store, lambda serving, _: served.append(serving.model.path.name))
    assert served == ["v1"]


def test_a_version_that_is_refused_and_has_no_predecessor_ends_the_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _live(store, "v1")
    with pytest.raises(BadInput, match="wrong numbers"):
        start(monkeypatch, store, _refused)


def test_a_version_that_is_refused_and_whose_predecessors_are_gone_ends_the_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _live(store, "v1")
    start(monkeypatch, store, _passed)
    _live(store, "v2")
    remove(first.path)
    # To start anew would come to the same version again, and so for ever.
    with pytest.raises(BadInput, match="wrong numbers"):
        start(monkeypatch, store, _refused)


@pytest.mark.parametrize("how", ["by vLLM's handler", "before vLLM has one"])
def test_a_server_that_is_told_to_stop_while_it_loads_holds_nothing_against_the_version(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    model = _live(store, "v1")

    def stop(serving: Serving, _: socket.socket) -> None:
        if how == "before vLLM has one":
            # As `hone_contract.edge.run` ends the process at SIGTERM.
            sys.exit(128 + signal.SIGTERM)
        serving.note_signal()

    with suppress(SystemExit):
        start(monkeypatch, store, stop)
    assert remembered(store).refusal(model) is None
