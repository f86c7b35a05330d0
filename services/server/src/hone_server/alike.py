"""Whether a version can take another's place in a running engine, which keeps all but the weights."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hone_contract.artifact import Artifact
from hone_contract.errors import BadInput
from hone_contract.model_files import TOKENIZER_FILES

# Read once, when the engine starts: the tokenizer, the template, and the defaults of sampling.
_KEPT_BY_THE_ENGINE = (*TOKENIZER_FILES, "generation_config.json")
_SAYS_NOTHING = ("transformers_version", "_name_or_path")


def difference(old: Artifact, new: Artifact) -> str | None:
    """What keeps `new` from taking the place of `old` in the engine; None: nothing does."""
    before, after = _digests(old), _digests(new)
    for name in _KEPT_BY_THE_ENGINE:
        if before.get(name) != after.get(name):
            return f"its {name} differs"
    if _config(old.path) != _config(new.path):
        return "its config.json differs"
    if _tensors(old) != _tensors(new):
        return "its tensors have other names, shapes or number formats"
    return None


def same_weights(old: Artifact, new: Artifact) -> bool:
    """Whether all tensors are the same, in whatever files."""
    if _weights(old) == _weights(new):
        return True
    pairs = zip_longest(_values(old), _values(new), fillvalue=("", torch.empty(0)))
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def _digests(model: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in model.manifest.files}


def _weights(model: Artifact) -> dict[str, str]:
    return {name: digest for name, digest in _digests(model).items() if name.endswith(".safetensors")}


def _config(folder: Path) -> dict[str, object]:
    try:
        config: object = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{folder / 'config.json'} is no JSON: {error}; merge again") from error
    if not isinstance(config, dict):
        raise BadInput(f"{folder / 'config.json'} is no object; merge again")
    return {name: value for name, value in config.items() if name not in _SAYS_NOTHING}


def _tensors(model: Artifact) -> dict[str, tuple[str, list[int]]]:
    found = {}
    for name in sorted(_weights(model)):
        with _opened(model.path / name) as file:
            for tensor in file.keys():
                header = file.get_slice(tensor)
                found[tensor] = (header.get_dtype(), header.get_shape())
    return found


def _values(model: Artifact) -> Iterator[tuple[str, Any]]:
    """Every tensor, by name, one at a time."""
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(model.path / name)) for name in _weights(model)]
        places = {tensor: file for file in files for tensor in file.keys()}
        for tensor in sorted(places):
            yield tensor, places[tensor].get_tensor(tensor)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Raises BadInput when it is not what its name says."""
    try:
        file = safe_open(path, "pt")
    except SafetensorError as error:
        raise BadInput(f"{path} is no safetensors file: {error}; merge again") from error
    with file as opened:
        yield opened
