"""The tensors of a model folder, by their headers: no weight is read."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from mmap import ACCESS_COPY, PAGESIZE, mmap
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors import SafetensorError, safe_open

from hone_contract.errors import BadInput

# MADV_POPULATE_READ of <sys/mman.h>, which Python does not name.
_POPULATE_READ = 22
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs, `Dtype`; those that can be
# read as a torch tensor of whole elements.
DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, by the name that it has there."""

    divisible: ClassVar[bool] = True
    """Whether some of its rows can be read without the others."""

    name: str
    file: Path
    mapped: mmap
    """The file."""
    offset: int
    """Where in the file the tensor begins, in bytes."""
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def read_as(self) -> torch.dtype:
        """What reading it gives."""
        return self.dtype

    def rows(self, rows: slice) -> torch.Tensor:
        """A part of the first dimension, mapped with all its pages, not copied. Not to be written to."""
        first, end, _ = rows.indices(self.shape[0] if self.shape else 1)
        each = prod(self.shape[1:])
        place = self.offset + first * each * self.dtype.itemsize
        self._populate(place, (end - first) * each * self.dtype.itemsize)
        return self._mapped(place, (end - first, *self.shape[1:]) if self.shape else ())

    def read(self) -> torch.Tensor:
        """Mapped, not copied: its pages come when they are looked at. Not to be written to."""
        return self._mapped(self.offset, self.shape)

    def _populate(self, place: int, size: int) -> None:
        """One call in place of a page fault every 64 KB; those take as long as the arithmetic."""
        start = place - place % PAGESIZE
        # Linux before 5.14 lacks it.
        with suppress(OSError):
            if size:
                self.mapped.madvise(_POPULATE_READ, start, place - start + size)

    def _mapped(self, place: int, shape: tuple[int, ...]) -> torch.Tensor:
        count = prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=self.dtype)
        return torch.frombuffer(self.mapped, dtype=self.dtype, count=count, offset=place).view(shape)


class _Typed(Protocol):
    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def size(self) -> int: ...


def main_dtype(tensors: Iterable[_Typed]) -> torch.dtype:
    """That of most of the elements."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        counts[tensor.dtype] += tensor.size // tensor.dtype.itemsize
    return counts.most_common(1)[0][0]


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """Every tensor in the order of the shards, and in a shard of its bytes.

    Shards that the index does not name are passed over: they are left from another save.
    Raises BadInput when a shard is cut off, or the index and the shards do not agree.
    """
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / SINGLE).is_file():
        return list(_headers(folder / SINGLE))
    raise BadInput(f"{folder} has neither {SINGLE} nor {INDEX}; import the base again")


def _indexed(folder: Path) -> list[StoredTensor]:
    places = _weight_map(folder / INDEX)
    tensors = [
        tensor
        for name in sorted(set(places.values()))
        for tensor in _headers(folder / name)
        if places.get(tensor.name) == name
    ]
    if missing := sorted(places.keys() - {tensor.name for tensor in tensors}):
        raise BadInput(
            f"{folder / places[missing[0]]} lacks tensor {missing[0]}, which {INDEX} says it has "
            f"({len(missing)} such); import the base again"
        )
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no index of shards: {error!r}; import the base again") from error
    for name in set(places.values()):
        if Path(name).name != name:
            raise BadInput(f"{path} names a shard outside its folder: {name!r}")
    return dict(places)


def _headers(path: Path) -> Iterator[StoredTensor]:
    try:
        file: Any = safe_open(path, "pt")
    except (SafetensorError, FileNotFoundError) as error:
        raise BadInput(f"{path} cannot be read as safetensors: {error}; import the base again") from error
    with path.open("rb") as opened:
        # Private to this process, which PyTorch wants to be able to write to; nothing does.
        mapped = mmap(opened.fileno(), 0, access=ACCESS_COPY)
    length = int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8 : 8 + length])
    for name in file.offset_keys():
        told = header[name]
        dtype, begin = _dtype(told["dtype"], name, path), told["data_offsets"][0]
        yield StoredTensor(name, path, mapped, 8 + length + begin, dtype, tuple(told["shape"]))


def _dtype(name: str, tensor: str, path: Path) -> torch.dtype:
    if name not in DTYPES:
        raise BadInput(
            f"{path}: tensor {tensor} is stored as {name}, which cannot be merged; use a base in "
            "float32, bfloat16 or float16"
        )
    return DTYPES[name]
