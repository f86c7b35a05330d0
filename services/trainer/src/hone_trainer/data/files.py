"""Which files a path, a folder or a glob means, and what each of them is."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.data.rejection import printable

Kind = Literal["jsonl", "json", "csv", "tsv", "parquet"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_COMPRESSIONS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}

_LONGEST_NAME = 4096


@dataclass(frozen=True)
class DataFile:
    """One file of examples."""

    path: Path
    name: str
    """What messages and records call it: relative to where its path pointed."""
    kind: Kind
    compression: Literal["gzip", "zstd"] | None


def find_files(paths: str | list[str], folder: Path) -> list[DataFile]:
    """Every file that `paths` mean, relative to `folder`, each once, in a settled order.

    Raises BadConfiguration when one means nothing or no data file, BadInput for a link that leads
    out of its folder.
    """
    found = [
        file
        for pattern in ([paths] if isinstance(paths, str) else paths)
        for file in _expand(pattern, folder)
    ]
    return list({file.path.resolve(): file for file in found}.values())


def _expand(pattern: str, folder: Path) -> list[DataFile]:
    path = folder / _at_home(pattern)
    if path.is_dir():
        return _all(path, (each for each in path.rglob("*") if _known(each)), pattern)
    if not path.exists() and glob.has_magic(pattern):
        # Relative to the folder, whose own name may hold what a glob would take for a wildcard.
        found = [folder / each for each in glob.glob(str(_at_home(pattern)), root_dir=folder, recursive=True)]
        return _all(folder / _fixed_part(_at_home(pattern)), filter(Path.is_file, found), pattern)
    if not path.is_file():
        raise BadConfiguration(f"{path}: there is no such file, folder or match; name your data with --data")
    return [_data_file(path, path.name)]


def _at_home(pattern: str) -> Path:
    try:
        return Path(pattern).expanduser()
    except RuntimeError as error:
        raise BadConfiguration(f"{pattern}: nobody here has that name; write the path in full") from error


def _all(root: Path, paths: Iterable[Path], pattern: str) -> list[DataFile]:
    files = []
    for path in sorted(paths):
        name = path.relative_to(root)
        if any(part.startswith(".") for part in name.parts):
            continue
        if not path.resolve().is_relative_to(root.resolve()):
            raise BadInput(f"{path}: leads out of {root}; name that file itself, or remove the link")
        files.append(_data_file(path, name.as_posix()))
    if not files:
        raise BadConfiguration(f"{pattern}: no data file there; known are {', '.join(_KINDS)}")
    return files


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first part with a wildcard."""
    plain = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


def _known(path: Path) -> bool:
    suffixes = {path.suffix.lower(), Path(path.stem).suffix.lower()}
    return path.is_file() and bool(suffixes & _KINDS.keys())


def _data_file(path: Path, name: str) -> DataFile:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BadConfiguration(f"{name!a}: its name is not UTF-8; rename the file") from error
    return DataFile(path, printable(name, _LONGEST_NAME), *_kind(path))


def _kind(path: Path) -> tuple[Kind, Literal["gzip", "zstd"] | None]:
    compression = _COMPRESSIONS.get(path.suffix.lower())
    suffix = Path(path.stem).suffix if compression else path.suffix
    kind = _KINDS.get(suffix.lower())
    if kind is None:
        told = f"{suffix!r} says no known format" if suffix else "has no suffix that says its format"
        raise BadConfiguration(
            f"{path}: {told}; rename it to end in {', '.join(_KINDS)}, or that with .gz or .zst"
        )
    return kind, compression
