"""What may go from a store goes, whole, and nothing else does."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hone_contract import __main__ as command
from hone_contract import artifact as artifact_module
from hone_contract.artifact import Artifact, draft, held, open_artifact, remove, seal
from hone_contract.errors import ArtifactBusy, ArtifactMissing
from hone_contract.manifest import Kind, Source
from hone_contract.retention import Policy, find_doomed
from hone_contract.store import Store

# Most are processes of their own.
pytestmark = pytest.mark.chain

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each artifact is an hour younger than the one before."""
    hours = [0]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            hours[0] += 1
            return (BEGIN + timedelta(hours=hours[0])).astimezone(tz)

    monkeypatch.setattr(artifact_module, "datetime", Clock)
    return hours


def make(path: Path, kind: Kind, **made_from: Artifact) -> Artifact:
    with draft(path, {}) as partial:
        (partial / "content").write_text(str(path.relative_to(path.parents[1])))
        lineage = {role: source.source for role, source in made_from.items()}
        return seal(partial, kind, path.name, lineage=lineage)


@pytest.fixture
def store(tmp_path: Path, clock: list[int]) -> Store:
    """Five runs from two bases, four of them merged as one model, of which the first is live."""
    assert clock == [0]
    store = Store(tmp_path / "store")
    bases = [make(store.base(name), "base") for name in ("one", "two", "unused")]
    data = [make(store.dataset(f"data-{number}"), "dataset") for number in range(6)]
    for number in range(5):
        sources = {"base": bases[number == 0], "dataset": data[number]}
        run_id = f"faq-{number:010x}"
        adapter = make(store.adapter(run_id), "adapter", **sources)
        make(store.checkpoint(run_id, 4), "checkpoint", **sources)
        if number < 4:
            make(store.model("faq", run_id), "model", adapter=adapter, base=sources["base"])
    make(store.checkpoint("going-0123456789", 2), "checkpoint", base=bases[0])
    store.point_live("faq", f"faq-{0:010x}")
    return store


def doomed(store: Store, **policy: Any) -> list[str]:
    return [each.path.relative_to(store.root).as_posix() for each in find_doomed(store, Policy(**policy))]


def ids(*numbers: int) -> list[str]:
    return [f"faq-{number:010x}" for number in numbers]


def checkpoints(*numbers: int) -> list[str]:
    return [f"runs/{run_id}/checkpoints/step-4" for run_id in ids(*numbers)]


def test_what_is_live_or_new_stays_and_what_it_was_made_from(store: Store) -> None:
    assert doomed(store, keep=2) == [
        *checkpoints(0, 1, 2, 3, 4),
        *(f"models/faq/{run_id}" for run_id in ids(1)),
        *(f"adapters/{run_id}" for run_id in ids(1)),
    ]


def test_with_nothing_kept_only_what_is_live_stays(store: Store) -> None:
    assert doomed(store, keep=0, sources=True) == [
        *checkpoints(0, 1, 2, 3, 4),
        *(f"models/faq/{run_id}" for run_id in ids(1, 2, 3)),
        *(f"adapters/{run_id}" for run_id in ids(1, 2, 3, 4)),
        *(f"datasets/data-{number}" for number in range(1, 6)),
        "bases/unused",
    ]


def test_sources_stay_unless_they_are_asked_for(store: Store) -> None:
    (store.tokens("x").parent).mkdir(parents=True)
    store.tokens("x").write_text("tokens")
    assert not [path for path in doomed(store, keep=9) if path.startswith(("bases", "datasets", "cache"))]
    assert doomed(store, keep=9, sources=True)[-3:] == ["datasets/data-5", "bases/unused", "cache/tokens"]


def test_what_cannot_be_opened_stays(store: Store) -> None:
    path = store.model("faq", ids(1)[0])
    (path / "content").unlink()
    assert f"models/faq/{path.name}" not in doomed(store, keep=0)


def test_what_a_damaged_model_was_made_from_stays(store: Store) -> None:
    live = store.model("faq", ids(0)[0])
    (live / "note.txt").touch()
    gone = doomed(store, keep=0, sources=True)
    assert not {f"models/faq/{live.name}", f"adapters/{live.name}", "bases/two", "datasets/data-0"} & set(
        gone
    )
    assert "bases/unused" in gone


def test_while_something_does_not_say_what_it_was_made_from_no_source_goes(store: Store) -> None:
    (store.model("faq", ids(0)[0]) / "manifest.json").write_text("{")
    assert doomed(store, keep=0, sources=True) == [
        *checkpoints(0, 1, 2, 3, 4),
        *(f"models/faq/{run_id}" for run_id in ids(1, 2, 3)),
    ]


def test_wherever_it_is_interrupted_a_second_one_ends_it(store: Store) -> None:
    policy = Policy(keep=0, sources=True)
    everything = {each.path for each in find_doomed(store, policy)}
    while left := find_doomed(store, policy):
        assert {each.path for each in left} <= everything
        remove(left[0].path)
    assert not [path for path in everything if path.exists()]


def test_a_model_that_was_published_meanwhile_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find_doomed(store, Policy(keep=0))
    store.point_live("faq", ids(2)[0])
    monkeypatch.setattr(command, "find_doomed", lambda *_: found)
    monkeypatch.setattr(sys, "argv", ["hone-store", "--store", str(store.root), "gc", "--yes"])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 0
    assert f"in use   models/faq/{ids(2)[0]}" in capsys.readouterr().out
    open_artifact(store.model("faq", ids(2)[0]), "model", digests=True)


def test_two_artifacts_of_the_same_bytes_both_stay(store: Store) -> None:
    twin = make(store.root / "elsewhere" / "x", "base")
    os.makedirs(store.root / "bases", exist_ok=True)
    assert twin.path.parent.name == "elsewhere"
    first, second = store.base("one"), store.base("zzz")
    with draft(second, {}) as partial:
        (partial / "content").write_bytes((first / "content").read_bytes())
        seal(partial, "base", "zzz", lineage={})
    assert open_artifact(first, "base").manifest.digest == open_artifact(second, "base").manifest.digest
    assert not {"bases/one", "bases/zzz"} & set(doomed(store, keep=9, sources=True))


@pytest.mark.parametrize(("hours", "goes"), [(0, True), (1, True), (3, False)])
def test_what_a_killed_writer_left_goes_after_a_time(store: Store, hours: float, goes: bool) -> None:
    with draft(store.dataset("half"), {}) as partial:
        (partial / "file").write_text("half")
    before = time.time() - 2 * 3600
    for path in (partial / "file", partial):
        os.utime(path, (before, before))
    assert (f"datasets/{partial.name}" in doomed(store, keep=9, partial_hours=hours)) is goes


# -- removal ---------------------------------------------------------------------------------------


def test_an_artifact_goes_as_a_whole(store: Store) -> None:
    path = store.model("faq", ids(2)[0])
    remove(path)
    with pytest.raises(ArtifactMissing):
        open_artifact(path, "model")
    assert not store.partials()


def test_what_was_half_removed_goes_too(store: Store) -> None:
    path = store.model("faq", ids(2)[0])
    half = path.rename(path.with_name(f"{path.name}.partial-removed"))
    (half / "manifest.json").unlink()
    assert f"models/faq/{half.name}" in doomed(store, keep=9)
    remove(half)
    assert not half.exists()


def test_what_is_written_is_not_removed(store: Store) -> None:
    with draft(store.model("faq", "new"), {}) as partial, pytest.raises(ArtifactBusy):
        remove(partial)


def test_what_is_served_is_not_removed_by_another_process(store: Store) -> None:
    path = store.model("faq", ids(2)[0])
    script = (
        "import sys; from pathlib import Path; from hone_contract.artifact import remove; "
        "remove(Path(sys.argv[1]))"
    )
    other = [sys.executable, "-c", script, str(path)]
    with held(path), held(path):
        done = subprocess.run(other, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ArtifactBusy" in done.stderr
    open_artifact(path, "model", digests=True)
    subprocess.run(other, check=True)
    assert not path.exists()


def test_a_model_without_a_lock_file_can_be_held(store: Store) -> None:
    path = store.model("faq", ids(2)[0])
    lock = path.with_name(f".{path.name}.lock")
    lock.unlink()
    with held(path), pytest.raises(ArtifactBusy):
        remove(path)
    with held(Path("/proc/none/model")):
        pass


# -- the command -----------------------------------------------------------------------------------


def gc(store: Store, *options: str) -> "subprocess.CompletedProcess[str]":
    arguments = [sys.executable, "-m", "hone_contract", "--store", str(store.root), "gc", *options]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_without_yes_nothing_is_touched(store: Store) -> None:
    before = sorted(store.root.rglob("*"))
    done = gc(store, "--keep", "2")
    assert done.returncode == 0, done.stderr
    assert f"may go   models/faq/{ids(1)[0]}  0.0 MB  not live, and 2 newer ones stay" in done.stdout
    assert done.stdout.splitlines()[-1] == "0.0 MB may go; nothing was removed: do it with --yes"
    assert sorted(store.root.rglob("*")) == before


def test_with_yes_what_may_go_goes_and_the_rest_is_whole(store: Store) -> None:
    expected = doomed(store, keep=1, sources=True)
    with held(store.model("faq", ids(2)[0])):
        done = gc(store, "--keep", "1", "--sources", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"in use   models/faq/{ids(2)[0]}" in done.stdout
    assert [path for path in expected if (store.root / path).exists()] == [f"models/faq/{ids(2)[0]}"]
    for kind, path in store.artifacts():
        open_artifact(path, kind, digests=True)
    assert store.read_live("faq") == ids(0)[0]
    assert not store.partials()


@pytest.mark.parametrize("option", [("--keep", "-1"), ("--keep", "x"), ("--partials-after", "nan")])
def test_a_wrong_number_is_one_line(store: Store, option: tuple[str, str]) -> None:
    done = gc(store, *option)
    assert done.returncode == 78
    assert f"argument {option[0]}: invalid number value" in done.stderr


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = gc(Store(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (78, "")
    assert "there is no store at" in done.stderr


def test_a_source_without_a_digest_is_no_reference(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with draft(store.base("b"), {}) as partial:
        seal(partial, "base", "b", lineage={"source": Source(id="hub:x")})
    assert doomed(store, sources=True) == ["bases/b"]
