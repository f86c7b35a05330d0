"""How an artifact folder comes to be, and how it is opened. Nobody else knows the rule.

A writer works in `<name>.partial-<digest of the plan>` beside the target, under a lock. Sealing
flushes every file to the disk, writes the manifest, flushes, and renames the folder to its name.
So a folder that has its name is whole; wherever a writer is killed, a reader finds the artifact
or does not, and the next writer with the same plan finds what was left and goes on.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from hone_contract.errors import (
    ArtifactBusy,
    ArtifactCorrupt,
    ArtifactExists,
    ArtifactIncomplete,
    ArtifactMissing,
    BadInput,
)
from hone_contract.manifest import (
    FILE_NAME,
    FileEntry,
    Kind,
    Manifest,
    Source,
    digest_of,
    first_problem,
    parse_manifest,
)

PARTIAL = ".partial-"
# What a rename is told where a folder with content, or a file, has the name.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@dataclass(frozen=True)
class Artifact:
    """A sealed folder that was opened."""

    path: Path
    manifest: Manifest

    @property
    def source(self) -> Source:
        """How another artifact's lineage names this one."""
        return Source(id=self.manifest.id, digest=self.manifest.digest)


@contextmanager
def draft(target: Path, plan: object, *, keep: bool = False) -> Iterator[Path]:
    """Lock `target` and yield the partial folder in which it is written.

    `plan` is a JSON value that says what is being made: another plan gets another folder.
    With `keep`, what a killed writer of the same plan left is still in it.
    Raises ArtifactBusy when another process is writing `target`, ArtifactExists when it is written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        if target.exists():
            raise _taken(target)
        partial = target.with_name(f"{target.name}{PARTIAL}{digest_of(plan)[:12]}")
        if not keep and partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        yield partial


def seal(
    partial: Path,
    kind: Kind,
    artifact_id: str,
    *,
    lineage: Mapping[str, Source],
    tools: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    digests: Mapping[str, str] | None = None,
) -> Artifact:
    """Turn a draft into the artifact it was meant to be. Call it inside `draft`, last.

    `digests` are SHA-256 (hex) of files that were hashed while they were written, by their paths in the
    draft; the others are read for theirs.
    Raises ArtifactExists when the target's name was taken in the meantime, BadInput for what a
    manifest cannot say, such as a metric that is not a number.
    """
    target = partial.with_name(partial.name.rpartition(PARTIAL)[0])
    (partial / FILE_NAME).unlink(missing_ok=True)
    try:
        manifest = Manifest(
            kind=kind,
            id=artifact_id,
            created_at=datetime.now(UTC).replace(microsecond=0),
            files=[_entry(partial, path, digests or {}) for path in _files(partial)],
            lineage=dict(lineage),
            tools=dict(tools or {}),
            metrics=dict(metrics or {}),
        )
    except ValidationError as error:
        raise BadInput(f"{partial} cannot be sealed: {first_problem(error)}") from None
    _flush_tree(partial)
    _write_flushed(partial / FILE_NAME, manifest.model_dump_json(indent=2) + "\n")
    flush(partial)
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise _taken(target) from error
    flush(target.parent)
    return Artifact(target, manifest)


def _taken(target: Path) -> ArtifactExists:
    return ArtifactExists(f"{target} is there already; remove it or choose another name")


def open_artifact(path: Path, kind: Kind, *, digests: bool = False) -> Artifact:
    """Open a sealed folder, checking kind, schema version, the list of files and their sizes.

    With `digests` every byte is read and checked too.
    Raises ArtifactMissing, ArtifactIncomplete, ArtifactCorrupt or UnsupportedSchema.
    """
    if not path.is_dir():
        raise ArtifactMissing(f"no {kind} at {path}; `hone-store ls` lists what there is")
    if PARTIAL in path.name or not (path / FILE_NAME).is_file():
        raise ArtifactIncomplete(f"{path} was never sealed; run the command that writes it again")
    manifest = _read_manifest(path / FILE_NAME)
    if manifest.kind != kind:
        raise ArtifactCorrupt(f"{path} holds a {manifest.kind}, not a {kind}")
    _compare(path, manifest, digests)
    return Artifact(path, manifest)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Use an artifact for long: `remove` refuses it until then. Several processes may hold one.

    Where there is no lock file and none can be made, as on a volume that was copied and is mounted read-only,
    nothing is held.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            lock = _lock_file(path)
            file = stack.enter_context(lock.open("r" if lock.exists() else "a"))
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def remove(path: Path) -> None:
    """Remove an artifact, or what a killed writer left of one, so that no reader sees a half of it.

    Raises ArtifactBusy while another process writes or holds it.
    """
    target = path.with_name(path.name.partition(PARTIAL)[0])
    with _lock(target):
        doomed = target.with_name(f"{target.name}{PARTIAL}removed")
        if path != doomed:
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
        shutil.rmtree(doomed)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old text or the new, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: two containers that share the store may both be process 1.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    _write_flushed(temporary, text)
    temporary.replace(path)
    flush(path.parent)


def _read_manifest(path: Path) -> Manifest:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactCorrupt(f"{path}: not a manifest: {error}; the artifact must be made again") from error
    return parse_manifest(text, str(path))


def _compare(path: Path, manifest: Manifest, digests: bool) -> None:
    there = {str(file.relative_to(path)): file for file in _files(path)}
    there.pop(FILE_NAME, None)
    listed = {entry.path: entry for entry in manifest.files}
    if there.keys() != listed.keys():
        name = min(there.keys() ^ listed.keys())
        what = "is missing" if name in listed else "is not in the manifest"
        raise ArtifactCorrupt(f"{path / name} {what}; the artifact must be made again")
    for name, entry in listed.items():
        _compare_file(there[name], entry, digests)


def _compare_file(file: Path, entry: FileEntry, digests: bool) -> None:
    size = file.stat().st_size
    if size != entry.size:
        raise ArtifactCorrupt(
            f"{file} has {size} bytes where the manifest says {entry.size}; the artifact must be made again"
        )
    if digests and (found := _sha256(file)) != entry.sha256:
        raise ArtifactCorrupt(
            f"{file} has changed since it was sealed (SHA-256 {found[:12]}…, sealed {entry.sha256[:12]}…); "
            "the artifact must be made again"
        )


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in files:
        if path.is_symlink() or not path.is_file():
            raise ArtifactCorrupt(f"{path} is a link or no plain file; an artifact holds plain files only")
    return files


def _entry(folder: Path, path: Path, digests: Mapping[str, str]) -> FileEntry:
    name = path.relative_to(folder).as_posix()
    return FileEntry(path=name, size=path.stat().st_size, sha256=digests.get(name) or _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    # The lock file stays: removing it would let two writers lock two files of one name.
    with _lock_file(target).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactBusy(
                f"{target} is being written by another process, or used by one; try again when it is done"
            ) from error
        yield


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _write_flushed(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _flush_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def flush(path: Path) -> None:
    """Wait until the disk has a file, or a folder's list of files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
