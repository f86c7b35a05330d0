"""Writes planned tensors as safetensors, computing ahead on every core, and hashes what it writes.

The format: 8 bytes of header length (little-endian), the header as JSON, the tensors' bytes
(https://huggingface.co/docs/safetensors). safetensors' own writer wants all tensors in memory.

A shard that is finished has its name and, in a file beside it until `drop_notes`, its digest; so a merge that
was killed goes on with the first shard that is not.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EINVAL
from fcntl import F_GETFL, F_SETFL, fcntl
from mmap import mmap
from pathlib import Path

import torch

from hone_contract.artifact import write_atomically
from hone_merger.fusing.checkpoint import DTYPES, INDEX, SINGLE
from hone_merger.fusing.layout import ROOM, Output

SHARD_BYTES = 5 * 10**9
# What is computed ahead of what is written.
_ROOMS = 8
# Written at once, and how many of those may wait to be written and hashed.
_BLOCK, _BLOCKS = 4 * 2**20, 8
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Shard:
    """One file of the model."""

    name: str
    outputs: list[Output]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(output.size for output in self.outputs)


def share_out(outputs: Iterable[Output], limit: int = SHARD_BYTES) -> list[Shard]:
    """Tensors in their order, in files of at most `limit` bytes, but for a tensor that is larger."""
    files: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if files[-1] and size + output.size > limit:
            files.append([])
            size = 0
        files[-1].append(output)
        size += output.size
    if len(files) == 1:
        return [Shard(SINGLE, files[0])]
    names = (f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1))
    return [Shard(name, held) for name, held in zip(names, files, strict=True)]


def room_for(shards: list[Shard]) -> int:
    """Bytes, at most, of the files that `write_shards` writes."""
    # An index says less of a tensor than a header does.
    return sum(shard.size + 2 * len(_header(shard.outputs)) for shard in shards)


def write_shards(shards: list[Shard], folder: Path, wrote: Callable[[int], None]) -> dict[str, str]:
    """Write the shards and their index; SHA-256 (hex) by the shard's name. `wrote` is told of bytes.

    What a killed merge of the same plan finished in the folder stays as it is; all else in it goes.
    """
    _clear(folder, shards)
    digests = {}
    with _cores() as pool:
        for shard in shards:
            digest = _finished(folder / shard.name)
            if digest is None:
                digest = _write(shard, folder / shard.name, pool, wrote)
            else:
                wrote(shard.size)
            digests[shard.name] = digest
    if len(shards) > 1:
        _write_index(shards, folder)
    return digests


@contextmanager
def _cores() -> Iterator[ThreadPoolExecutor]:
    """One thread a core, each of which computes by itself."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(threads)


def drop_notes(folder: Path) -> None:
    """Forget which shards are finished: the last thing before the folder is sealed."""
    for note in folder.glob(".*.sha256"):
        note.unlink()


def forget(shard: Path) -> None:
    """Have a merge that goes on write it anew."""
    _note(shard).unlink(missing_ok=True)


def _clear(folder: Path, shards: list[Shard]) -> None:
    kept = {path for shard in shards for path in (folder / shard.name, _note(folder / shard.name))}
    for path in folder.iterdir():
        if path not in kept:
            path.unlink()


def _finished(path: Path) -> str | None:
    note = _note(path)
    if not (path.is_file() and note.is_file()):
        return None
    digest = note.read_text(encoding="utf-8").strip()
    with path.open("rb") as file:
        return digest if hashlib.file_digest(file, "sha256").hexdigest() == digest else None


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _write(shard: Shard, path: Path, pool: ThreadPoolExecutor, wrote: Callable[[int], None]) -> str:
    unfinished = path.with_name(f".{path.name}.unfinished")
    header = _header(shard.outputs)
    with _Hashed(unfinished, len(header) + shard.size) as hashed:
        hashed.write(memoryview(header))
        for data in _in_order(shard.outputs, pool):
            hashed.write(data)
            wrote(len(data))
            # Or it would be kept while the next is waited for.
            del data
    unfinished.rename(path)
    write_atomically(_note(path), hashed.digest + "\n")
    return hashed.digest


class _Hashed:
    """A file that is hashed while it is written, past the system's cache where the file system can."""

    def __init__(self, path: Path, size: int) -> None:
        # Through the cache, six gigabytes took the processor as long as the hash of them does.
        self._direct = getattr(os, "O_DIRECT", 0)
        self._descriptor = _open(path, self._direct)
        try:
            # A full disk is told at once.
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError:
            # It may have taken what there was.
            path.unlink()
            os.close(self._descriptor)
            raise
        self._sha256 = hashlib.sha256()
        self._hasher, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        # Mapped, so that they begin where a page does, as O_DIRECT asks.
        self._free = deque(memoryview(mmap(-1, _BLOCK)) for _ in range(_BLOCKS))
        self._taken: deque[tuple[memoryview, Future[None], Future[None]]] = deque()
        self._filled = 0

    def write(self, data: memoryview) -> None:
        """`data` may be used again when it returns. Raises OSError, also for what was written before."""
        while data:
            if not self._free:
                self._release()
            some = data[: _BLOCK - self._filled]
            self._free[0][self._filled : self._filled + len(some)] = some
            self._filled += len(some)
            data = data[len(some) :]
            if self._filled == _BLOCK:
                self._put()

    def _put(self) -> None:
        whole = self._free.popleft()
        block = whole[: self._filled]
        hashed = self._hasher.submit(self._sha256.update, block)
        self._taken.append((whole, hashed, self._writer.submit(self._write_all, block)))
        self._filled = 0

    def _release(self) -> None:
        block, hashed, written = self._taken.popleft()
        written.result()
        hashed.result()
        self._free.append(block)

    def _write_all(self, block: memoryview) -> None:
        while block:
            block = block[os.write(self._descriptor, block) :]

    @property
    def digest(self) -> str:
        """SHA-256, hex, of what was written before it was closed."""
        return self._sha256.hexdigest()

    def __enter__(self) -> "_Hashed":
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self._finish()
        finally:
            self._writer.shutdown()
            self._hasher.shutdown()
            os.close(self._descriptor)

    def _finish(self) -> None:
        while self._taken:
            self._release()
        if self._filled:
            # The rest is no whole number of the disk's blocks.
            flags = fcntl(self._descriptor, F_GETFL)
            fcntl(self._descriptor, F_SETFL, flags & ~self._direct)
            self._put()
            self._release()


def _open(path: Path, direct: int) -> int:
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    try:
        return os.open(path, flags | direct, 0o666)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        return os.open(path, flags, 0o666)


def _in_order(outputs: Iterable[Output], pool: ThreadPoolExecutor) -> Iterator[memoryview]:
    """The bytes that the outputs' parts make, computed ahead while rooms are free; each until the next.

    A part that is larger than a room takes several; one that is larger than all of them waits for them.
    """
    free = [torch.empty(ROOM, dtype=torch.uint8) for _ in range(_ROOMS)]
    pending: deque[tuple[Future[torch.Tensor], list[torch.Tensor]]] = deque()

    def next_made() -> Iterator[memoryview]:
        part, rooms = pending.popleft()
        yield memoryview(part.result().reshape(-1).view(torch.uint8).numpy().data)
        free.extend(rooms)

    for output in outputs:
        needed = min(_ROOMS, max(1, -(-output.size // (ROOM * len(output.parts)))))
        for part in output.parts:
            while len(free) < needed:
                yield from next_made()
            rooms = [free.pop() for _ in range(needed)]
            pending.append((pool.submit(part, rooms[0]), rooms))
    while pending:
        yield from next_made()


def _header(outputs: list[Output]) -> bytes:
    tensors: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for output in outputs:
        begin, end = end, end + output.size
        tensors[output.name] = {
            "dtype": _NAMES[output.dtype],
            "shape": list(output.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(tensors, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_index(shards: list[Shard], folder: Path) -> None:
    index = {
        "metadata": {"total_size": sum(shard.size for shard in shards)},
        "weight_map": {output.name: shard.name for shard in shards for output in shard.outputs},
    }
    write_atomically(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
