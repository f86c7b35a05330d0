"""Room on a disk: looked for before anything is written, and told of when it was not enough."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hone_contract.edge import FULL
from hone_contract.errors import RetryableFailure

TO_MERGE = "make room (`hone-store ls` shows what there is), then merge again"
"""What to do when a merge has no room."""
TO_IMPORT = "make room (`hone-store ls` shows what there is), then import again"


def check_room(folder: Path, size: int, what: str, remedy: str, *, left: int = 0) -> None:
    """Raises RetryableFailure when `what`, of `size` bytes, has no room in `folder`.

    `left` are bytes of before that are used again, or go.
    """
    free = _free(folder) + left
    if size > free:
        raise RetryableFailure(
            f"{folder} has {_amount(free)} left, and {what} takes {_amount(size)}; {remedy}"
        )


@contextmanager
def told_when_full(target: Path, remedy: str) -> Iterator[None]:
    """Raises RetryableFailure when the disk, or a quota, is full before `target` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = _amount(_free(target))
        raise RetryableFailure(
            f"{target} could not be written, {free} are free there: {error.strerror}; {remedy}"
        ) from error


def standing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def _free(path: Path) -> int:
    return shutil.disk_usage(standing(path)).free


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**10 else f"{size / 1e6:.1f} MB"
