"""Where a run's examples come from, settled: files found, revisions resolved, digests taken."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hone_contract.data_spec import DataSpec, SourceSpec
from hone_contract.manifest import Source as Origin
from hone_contract.manifest import digest_of
from hone_contract.model_files import sha256_of
from hone_trainer.data.files import DataFile, find_files
from hone_trainer.data.filters import Filter
from hone_trainer.data.formats import How
from hone_trainer.data.reading import read_parts
from hone_trainer.data.rows import Block, Row

_LARGE = 32 * 10**6
"""Bytes."""


@dataclass(frozen=True)
class Source:
    """One place that examples come from."""

    name: str
    role: Literal["train", "eval"]
    spec: SourceSpec
    how: How
    filter: Filter
    origin: Origin
    """For the lineage: a digest over all its files, or the commit on the Hub."""
    files: list[DataFile]
    quota: int | None
    """How many records are wanted of it; None for all."""
    seed: int

    @property
    def is_large(self) -> bool:
        """Whether it is worth other processes, which take half a second to begin."""
        return sum(file.path.stat().st_size for file in self.files if file.kind == "jsonl") > _LARGE

    def parts(self) -> Iterator[tuple[str, Block | Row]]:
        """All that it holds, some of it at a time, each with its file's name."""
        if self.spec.hub is not None:
            from hone_trainer.data.hub import stream  # noqa: PLC0415 - its import takes seconds

            commit = self.origin.id.rpartition("@")[2]
            yield from stream(self.spec, commit, self.seed)
        for file in self.files:
            for part in read_parts(file):
                yield file.name, part


def open_sources(data: DataSpec, folder: Path) -> list[Source]:
    """Every source of `data`, those for evaluation first; paths are relative to `folder`.

    Raises BadConfiguration for a path that means no file or a dataset that the Hub has not.
    """
    evaluation = [SourceSpec(path=data.eval, columns=data.columns)] if data.eval is not None else []
    training = data.sources or [SourceSpec(path=data.train, columns=data.columns)]
    quotas = share_out(training, data.total)
    sources = [
        *(_open(each, "eval", None, data, folder) for each in evaluation),
        *(_open(each, "train", quota, data, folder) for each, quota in zip(training, quotas, strict=True)),
    ]
    return _told_apart(sources, folder)


def share_out(sources: list[SourceSpec], total: int | None) -> list[int | None]:
    """How many records each source is to give; the weighted ones give `total` together, to the record."""
    weights = sum(source.weight or 0 for source in sources)
    exact = [(total or 0) * (source.weight or 0) / (weights or 1) for source in sources]
    shares = [int(share) for share in exact]
    # What rounding down left over goes to those that it took most from.
    left = (total or 0) - sum(shares)
    for index in sorted(range(len(sources)), key=lambda i: shares[i] - exact[i])[:left]:
        shares[index] += 1
    return [
        share if source.weight is not None else source.count
        for source, share in zip(sources, shares, strict=True)
    ]


def _open(
    spec: SourceSpec, role: Literal["train", "eval"], quota: int | None, data: DataSpec, folder: Path
) -> Source:
    how = How(spec.columns, spec.system or data.system, spec.join or data.join, data.format, spec.html)
    origin, files = _locate(spec, folder)
    name = spec.name or spec.hub or origin.id
    return Source(name, role, spec, how, Filter(spec), origin, files, quota, data.seed)


def _locate(spec: SourceSpec, folder: Path) -> tuple[Origin, list[DataFile]]:
    if spec.hub is not None:
        from hone_trainer.data.hub import resolve  # noqa: PLC0415 - its import takes seconds

        return Origin(id=f"hub:{spec.hub}@{resolve(spec.hub, spec.revision)}"), []
    assert spec.path is not None
    files = find_files(spec.path, folder)
    name = files[0].name if len(files) == 1 else f"{len(files)} files"
    return Origin(id=name, digest=_digest(files)), files


def _digest(files: list[DataFile]) -> str:
    digests = [(file.name, sha256_of(file.path.parent, file.path.name)) for file in files]
    return digests[0][1] if len(digests) == 1 else digest_of(digests)


def _told_apart(sources: list[Source], folder: Path) -> list[Source]:
    """Files of one name in several folders get the folder into theirs, so that `file:line` means one row."""
    paths: dict[str, set[Path]] = defaultdict(set)
    for file in (file for source in sources for file in source.files):
        paths[file.name].add(file.path.resolve())

    def name(file: DataFile) -> str:
        return os.path.relpath(file.path, folder) if len(paths[file.name]) > 1 else file.name

    return [
        replace(source, files=[replace(file, name=name(file)) for file in source.files]) for source in sources
    ]
