"""Bytes on disk, by their digest: nothing here has a name that a client gave.

    files/<2 hex>/<sha256>    whole files, each once however many rows have it
    parts/<part id>           parts of uploads that are not complete
    incoming/                 what arrives now; of a process that was killed, it is swept when the next begins

A file's bytes are in place before its row is, so a row never lacks them. Bytes without a row are removed by
`removing`, and whoever looks whether there is a row does it `alone`.
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hone_api.errors import ApiError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"part_[A-Za-z0-9]{24}")
_BUFFER = 2**20


class Storage:
    """One folder, for the life of the process."""

    def __init__(self, root: Path) -> None:
        self._files, self._parts, self._incoming = root / "files", root / "parts", root / "incoming"
        self._lock = root / "files.lock"
        for folder in (self._files, self._parts, self._incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        assert _DIGEST.fullmatch(digest), digest
        return self._files / digest[:2] / digest

    def part_path(self, part_id: str) -> Path:
        assert _PART.fullmatch(part_id), part_id
        return self._parts / part_id

    def open(self, digest: str) -> BinaryIO:
        """Raises FileNotFoundError. What is open stays readable when it is removed."""
        return self.path(digest).open("rb")

    @contextmanager
    def incoming(self) -> Iterator["Incoming"]:
        """A file to write into. Unless it is kept, nothing of it is left, whatever happens."""
        path = self._incoming / secrets.token_hex(16)
        with open(path, "xb", buffering=_BUFFER, opener=_private) as file:
            # Whoever sweeps takes what nobody holds.
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield Incoming(self, file, path)
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Meanwhile nobody else brings bytes into place, nor removes any. It is not for long work."""
        with open(self._lock, "ab", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def remove_part(self, part_id: str) -> None:
        self.part_path(part_id).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Of all files that there are."""
        return (each.name for each in self._files.glob("*/*") if _DIGEST.fullmatch(each.name))

    def part_ids(self) -> Iterator[str]:
        return (each.name for each in self._parts.iterdir() if _PART.fullmatch(each.name))

    def sweep(self) -> None:
        """Remove what a process left that was killed while bytes arrived. For before requests are taken."""
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


class Incoming:
    """A file that arrives."""

    def __init__(self, storage: Storage, file: BinaryIO, path: Path) -> None:
        self._storage, self._file, self._path = storage, file, path
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """SHA-256 of what was written, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Raises ApiError when the disk is full."""
        with _room():
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def settle(self) -> None:
        """Bring it to the disk, which may take long; what is kept then needs only a name."""
        with _room():
            self._file.flush()
            os.fsync(self._file.fileno())

    def keep(self) -> tuple[str, int]:
        """Bring it into place, or use what is there with the same digest: the digest, and the size."""
        self._place(self._storage.path(self.digest))
        return self.digest, self.size

    def keep_as_part(self, part_id: str) -> None:
        self._place(self._storage.part_path(part_id))

    def _place(self, target: Path) -> None:
        self.settle()
        target.parent.mkdir(exist_ok=True)
        if not target.exists() or target.stat().st_size != self.size:
            self._path.replace(target)
            _sync_folder(target.parent)
            _sync_folder(target.parent.parent)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ApiError(507, "The disk is full", kind="server_error", code="disk_full") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    """A new name is in its folder, which has to come to the disk too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
