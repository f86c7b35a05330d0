"""Which model to serve: waits until it is published, then checks every byte of it."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.edge import AWAY
from hone_contract.errors import BadConfiguration, HoneError, RetryableFailure
from hone_contract.store import Store
from hone_server.record import Record
from hone_server.settings import Settings

_POLL_SECONDS = 0.5


def wait_for_model(settings: Settings, tell: Callable[[str], None]) -> tuple[str, str]:
    """The model's name and its live version.

    Raises RetryableFailure when nothing was published in time or the volume could not be read,
    BadConfiguration when several models are published and none was named.
    """
    wanted = settings.model or "a model"

    def find() -> tuple[str, str] | None:
        return _published(settings)

    return _wait(find, f"{wanted} to be published", "run hone-merger merge", settings, tell)


def wait_for_base(settings: Settings, name: str, tell: Callable[[str], None]) -> Artifact:
    """The base, every byte of it read. Raises RetryableFailure as `wait_for_model` does."""
    path = settings.store.base(name)

    def find() -> Path | None:
        return path if path.is_dir() else None

    _wait(find, f"the base {name}", f"run hone-trainer import-base {name}", settings, tell)
    return open_artifact(path, "base", digests=True)


_Found = TypeVar("_Found")


def _wait(
    find: Callable[[], _Found | None],
    wanted: str,
    remedy: str,
    settings: Settings,
    tell: Callable[[str], None],
) -> _Found:
    deadline = time.monotonic() + settings.wait_seconds
    while True:
        missing, then = wanted, remedy
        try:
            if (found := find()) is not None:
                return found
        except OSError as error:
            if error.errno not in AWAY:
                raise
            missing, then = f"the volume to come back ({error.strerror})", "it cannot be read"
        tell(f"waiting for {missing}")
        if time.monotonic() >= deadline:
            raise RetryableFailure(
                f"{settings.store.root}: {missing} was waited for {settings.wait_seconds:g} s; {then}"
            )
        time.sleep(_POLL_SECONDS)


def choose_version(store: Store, name: str, live: str, record: Record) -> tuple[Artifact, str | None]:
    """The version to start with, every byte of it read, and why it is not the live one, if it is not.

    The live one, unless it is broken, or this server refused it, or went down with it: then the one that
    passed last. Raises HoneError when the live one is broken, and no other passed.
    """
    passed = last_that_passed(store, name, record, live)
    try:
        refusal = record.refusal(open_artifact(store.model(name, live), "model"))
        if refusal is None or passed is None:
            return read_whole(store, name, live), None
    except HoneError as error:
        if passed is None:
            raise
        refusal = str(error)
    return read_whole(store, name, passed), refusal


def last_that_passed(store: Store, name: str, record: Record, but: str) -> str | None:
    """The newest other version that passed, is still there and was not refused since; None: there is none."""
    for version in reversed(record.passed):
        with suppress(HoneError):
            model = open_artifact(store.model(name, version), "model")
            if version != but and record.refusal(model) is None:
                return version
    return None


def read_whole(store: Store, name: str, version: str) -> Artifact:
    """Raises ArtifactCorrupt naming the file when a byte has changed."""
    return open_artifact(store.model(name, version), "model", digests=True)


def _published(settings: Settings) -> tuple[str, str] | None:
    names = settings.store.published()
    if settings.model is None and len(names) > 1:
        raise BadConfiguration(f"several models are published: {', '.join(names)}; choose one with --model")
    name = settings.model or next(iter(names), None)
    version = settings.store.read_live(name) if name else None
    return (name, version) if name and version else None
