"""Where a published file or folder goes: beside everything else, whole or not at all."""

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hone_contract.artifact import flush
from hone_contract.errors import BadConfiguration
from hone_contract.store import Store
from hone_merger import room

_TO_PUBLISH = "make room, then publish again"


def check_place(target: Path, store: Store, *, folder: bool = False) -> Path:
    """The absolute path. Raises BadConfiguration for one in the store, or that is taken, or has no folder.

    For a `folder`, one that is there and empty will do.
    """
    place = target.expanduser().resolve()
    root = store.root.resolve()
    if place == root or root in place.parents:
        raise BadConfiguration(f"{target} is in the store {store.root}, which only Hone writes; name another")
    if place.is_mount():
        raise BadConfiguration(f"{target} is where a disk is mounted; name a folder or a file in it")
    if folder and place.is_dir() and not any(place.iterdir()):
        return place
    for taken in (place, place if folder else digest_file(place)):
        if taken.exists():
            raise BadConfiguration(f"{taken} is there already; remove it or name another")
    if not place.parent.is_dir():
        raise BadConfiguration(f"{place.parent} is no folder; make it first")
    return place


def check_room(place: Path, size: int) -> None:
    """Raises RetryableFailure when `size` bytes have no room."""
    room.check_room(place.parent, size, "this", _TO_PUBLISH)


def digest_file(place: Path) -> Path:
    """The file beside it that has its digest."""
    return place.with_name(f"{place.name}.sha256")


@contextmanager
def becoming(place: Path) -> Iterator[Path]:
    """A path to write a file or folder at, which has the place's name only when it is whole.

    Raises RetryableFailure when the disk is full before.
    """
    partial = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
    with room.told_when_full(place, _TO_PUBLISH):
        try:
            yield partial
            for path in [*partial.rglob("*"), partial]:
                flush(path)
            if place.is_dir():
                place.rmdir()
            partial.rename(place)
            flush(place.parent)
        finally:
            if partial.is_dir():
                shutil.rmtree(partial)
            partial.unlink(missing_ok=True)


@contextmanager
def becoming_with_digest(place: Path) -> Iterator[Path]:
    """The same for a file, and `<name>.sha256` beside it, for `sha256sum -c`."""
    with becoming(digest_file(place)) as digest, becoming(place) as partial:
        yield partial
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        digest.write_text(f"{found}  {place.name}\n", encoding="utf-8")
