"""Checkpoints: which one a run goes on from, and which ones stay."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_contract.events import Event, Reporter
from hone_contract.store import Store
from hone_trainer.training.checkpoints import Checkpoints

FILE = "weights.bin"


@pytest.fixture
def checkpoints(store: Store) -> Checkpoints:
    return of(store)


def of(store: Store, keep: int = 2) -> Checkpoints:
    return Checkpoints(store, "sky-1", keep, {}, Reporter("trainer", store.run("sky-1") / "events.jsonl"))


def save(checkpoints: Checkpoints, *steps: int, **metrics: float) -> None:
    for step in steps:
        checkpoints.save(step, write, {"step": float(step), "processes": 1.0, **metrics})


def write(folder: Path) -> None:
    (folder / FILE).write_bytes(b"0123456789")


def newest(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.newest()
    return None if found is None else int(found.manifest.metrics["step"])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / FILE).read_bytes())
    content[4] ^= 1
    (folder / FILE).write_bytes(content)


def cut_short(folder: Path) -> None:
    (folder / FILE).write_bytes(b"01234")


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def lose_a_file(folder: Path) -> None:
    (folder / FILE).unlink()


DAMAGES = [flip_a_bit, cut_short, lose_the_manifest, lose_a_file]


def test_there_is_none_before_one_is_saved(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    assert checkpoints.steps() == []


def test_the_newest_is_that_of_the_highest_step(checkpoints: Checkpoints) -> None:
    save(checkpoints, 8, 9, 10)
    assert checkpoints.steps() == [10, 9, 8]
    assert newest(checkpoints) == 10


def test_a_half_written_one_is_removed(checkpoints: Checkpoints) -> None:
    save(checkpoints, 2)
    half = checkpoints.folder / "step-4.partial-0123456789ab"
    half.mkdir()
    write(half)
    assert checkpoints.steps() == [2]
    assert newest(checkpoints) == 2
    assert not half.exists()
    assert not checkpoints.skipped


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_left_out_and_told(checkpoints: Checkpoints, damage: Callable[[Path], None]) -> None:
    save(checkpoints, 2, 4)
    damage(checkpoints.place(4))
    assert newest(checkpoints) == 2
    checkpoints.tell_skipped()
    [line] = (checkpoints.folder.parent / "events.jsonl").read_text(encoding="utf-8").splitlines()
    event = Event.model_validate_json(line)
    assert (event.event, event.level, event.data) == ("checkpoint_skipped", "warning", {"step": 4})
    assert str(checkpoints.place(4)) in event.message
    assert checkpoints.steps() == [2]
    save(checkpoints, 4)
    assert newest(checkpoints) == 4


def test_when_all_are_damaged_there_is_none(checkpoints: Checkpoints) -> None:
    save(checkpoints, 2, 4)
    for step in (2, 4):
        flip_a_bit(checkpoints.place(step))
    assert checkpoints.newest() is None
    assert checkpoints.skipped.keys() == {2, 4}


def test_one_whose_best_is_damaged_is_left_out(checkpoints: Checkpoints) -> None:
    save(checkpoints, 2, best=2)
    save(checkpoints, 4, best=4)
    save(checkpoints, 6, best=4)
    flip_a_bit(checkpoints.place(4))
    assert newest(checkpoints) == 2
    assert checkpoints.skipped.keys() == {4, 6}


def test_one_whose_best_is_gone_is_left_out(checkpoints: Checkpoints) -> None:
    save(checkpoints, 6, best=4)
    assert checkpoints.newest() is None


@pytest.mark.parametrize(("keep", "left"), [(1, [10]), (2, [10, 8]), (9, [10, 8, 6, 4, 2])])
def test_as_many_as_are_to_be_kept_stay(store: Store, keep: int, left: list[int]) -> None:
    checkpoints = of(store, keep)
    save(checkpoints, 2, 4, 6, 8, 10)
    checkpoints.prune()
    assert checkpoints.steps() == left
    assert [path for path in checkpoints.folder.iterdir() if path.is_dir()] != []
    assert not store.partials()


def test_the_best_one_stays_besides(checkpoints: Checkpoints) -> None:
    save(checkpoints, 2, best=2)
    save(checkpoints, 4, 6, 8, best=4)
    checkpoints.prune()
    assert checkpoints.steps() == [8, 6, 4]


def test_what_an_older_one_has_as_its_best_stays_with_it(checkpoints: Checkpoints) -> None:
    """If the newest is damaged, the run goes on from the older one, and may end with that best one."""
    save(checkpoints, 2, 4, 6, best=2)
    save(checkpoints, 8, best=8)
    checkpoints.prune()
    assert checkpoints.steps() == [8, 6, 2]
    flip_a_bit(checkpoints.place(8))
    assert newest(checkpoints) == 6


def test_a_process_that_is_killed_while_it_removes_one_leaves_no_half_of_it(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it would be killed in test_survival only by chance."""

    def begin_to_remove(path: Path, **_: bool) -> None:
        for file in path.glob(FILE):
            file.unlink()
            raise KeyboardInterrupt

    save(checkpoints, 2, 4, 6)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", begin_to_remove)
        checkpoints.prune()
    assert checkpoints.steps() == [6, 4]
    assert checkpoints.store.partials()
    assert newest(checkpoints) == 6
    assert not checkpoints.store.partials()


def test_a_writer_that_fails_leaves_nothing(checkpoints: Checkpoints) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise ZeroDivisionError

    save(checkpoints, 2)
    with pytest.raises(ZeroDivisionError):
        checkpoints.save(4, fail, {})
    assert not checkpoints.store.partials()
    assert newest(checkpoints) == 2


@pytest.mark.parametrize(("begun", "now", "told"), [(1, 2, "1 process; on 2"), (4, 1, "4 processes; on 1")])
def test_another_number_of_processes_is_refused(
    checkpoints: Checkpoints, begun: int, now: int, told: str
) -> None:
    save(checkpoints, 2, processes=begun)
    found = checkpoints.newest()
    assert found is not None
    checkpoints.check_processes(found, begun)
    with pytest.raises(BadConfiguration, match=f"run sky-1 was begun on {told} process"):
        checkpoints.check_processes(found, now)


def test_a_full_disk_is_told_with_what_is_left(checkpoints: Checkpoints) -> None:
    """A device that is always full stands for the disk; test_starved has a disk that is full."""

    def fill(folder: Path) -> None:
        write(folder)
        with Path("/dev/full").open("w", encoding="ascii") as file:
            file.write("0")

    save(checkpoints, 2)
    with pytest.raises(RetryableFailure) as caught:
        checkpoints.save(4, fill, {})
    told = str(caught.value)
    assert told.startswith("checkpoint step-4 could not be written, ")
    assert f" MB are free in {checkpoints.folder}: " in told
    assert told.endswith(
        "No space left on device; make room and run the same command again; the newest checkpoint is step-2"
    )
    assert newest(checkpoints) == 2
