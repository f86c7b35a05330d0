"""Which model to serve: waits until it is published, then checks every byte of it."""

import time
from collections.abc import Callable

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_server.settings import Settings

_POLL_SECONDS = 0.5


def wait_for_model(settings: Settings, tell: Callable[[str], None]) -> tuple[str, Artifact]:
    """The model's name and its live version, verified.

    Raises RetryableFailure when nothing was published in time, BadConfiguration when several models
    are and none was named, ArtifactCorrupt naming the file when a byte has changed.
    """
    deadline = time.monotonic() + settings.wait_seconds
    wanted = settings.model or "a model"
    while (found := _published(settings)) is None:
        tell(f"waiting for {wanted} to be published")
        if time.monotonic() >= deadline:
            raise RetryableFailure(
                f"{settings.store.root}: {wanted} was not published within {settings.wait_seconds:g} s; "
                "run hone-merger merge"
            )
        time.sleep(_POLL_SECONDS)
    name, version = found
    tell(f"reading {name}/{version}")
    return name, open_artifact(settings.store.model(name, version), "model", digests=True)


def _published(settings: Settings) -> tuple[str, str] | None:
    names = settings.store.published()
    if settings.model is None and len(names) > 1:
        raise BadConfiguration(f"several models are published: {', '.join(names)}; choose one with --model")
    name = settings.model or next(iter(names), None)
    version = settings.store.read_live(name) if name else None
    return (name, version) if name and version else None
