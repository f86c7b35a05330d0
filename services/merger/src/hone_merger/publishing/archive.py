"""One tar file for a release: nothing in it tells when or by whom it was packed."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hone_contract.errors import BadConfiguration
from hone_contract.events import Reporter
from hone_contract.progress import Progress
from hone_contract.store import Store
from hone_merger.publishing.bundle import Bundle, Item
from hone_merger.publishing.place import becoming_with_digest, check_place, check_room


def check_archive(target: Path, store: Store) -> Path:
    """As `check_place`, and BadConfiguration for another format than .tar and .tar.gz."""
    if not target.name.endswith((".tar", ".tar.gz")):
        raise BadConfiguration(f"--archive: {target.name} ends neither with .tar nor with .tar.gz")
    return check_place(target, store)


def write_archive(bundle: Bundle, target: Path, store: Store, reporter: Reporter) -> Path:
    """With one folder in it; compressed when its name ends with .tar.gz, which gains little on weights.

    Its digest is beside it, for `sha256sum -c`. Raises as `check_archive` and `check_room` do.
    """
    place = check_archive(target, store)
    check_room(place, bundle.size)
    time = int(bundle.artifact.manifest.created_at.timestamp())
    with (
        Progress("archiving", "B", bundle.size, reporter) as progress,
        becoming_with_digest(place) as partial,
        _stream(partial, place.name.endswith(".tar.gz"), time) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for item in bundle.items:
            with _content(item) as file:
                archive.addfile(_entry(bundle, item, time), file)
            progress.advance(item.size)
    return place


@contextmanager
def _stream(path: Path, compressed: bool, time: int) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        if not compressed:
            yield file
            return
        # Without a name and with a fixed time, which gzip would otherwise write into its header.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=time) as packed:
            yield packed  # type: ignore[misc]


def _content(item: Item) -> IO[bytes]:
    return io.BytesIO(item.content) if isinstance(item.content, bytes) else item.content.open("rb")


def _entry(bundle: Bundle, item: Item, time: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(f"{bundle.title}/{item.name}")
    entry.size, entry.mtime, entry.mode = item.size, time, 0o644
    return entry
