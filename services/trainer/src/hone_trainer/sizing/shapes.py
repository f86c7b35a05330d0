"""How large a base's layers are, read from the headers of its weights and its config; nothing is loaded."""

import json
import math
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hone_contract.errors import BadInput

_INDEX = "model.safetensors.index.json"
_HEAD = {"lm_head", "embed_out"}
_EMBEDDINGS = {"embed_tokens", "embed_in", "wte", "wpe", "word_embeddings", "embed_positions"}
# One expert of a mixture; only a few of them see a token.
_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True)
class Linear:
    """A layer that multiplies: a linear one, an embedding, or the output head."""

    name: str
    """As the model names it: `model.layers.0.self_attn.q_proj`."""
    outputs: int
    inputs: int

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def block(self) -> str:
        """Number of the decoder layer that it is part of; empty outside of them."""
        found = re.search(r"(?:^|\.)(\d+)\.", self.name)
        return found[1] if found else ""

    @property
    def size(self) -> int:
        return self.outputs * self.inputs

    @property
    def is_expert(self) -> bool:
        return _EXPERT.search(self.name) is not None


@dataclass(frozen=True)
class Shapes:
    """The sizes of a causal language model."""

    weights: dict[str, tuple[int, ...]]
    """Shape of every tensor that the model has, tied ones once, by its name."""
    config: dict[str, Any]

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.weights.values()))

    @cached_property
    def matrices(self) -> list[Linear]:
        """Every weight of two dimensions: linear layers, embeddings and the head."""
        return [
            Linear(name.removesuffix(".weight"), *shape)
            for name, shape in self.weights.items()
            if len(shape) == 2 and name.endswith(".weight")
        ]

    @cached_property
    def linears(self) -> list[Linear]:
        """The linear layers of the decoder: no head, no embedding."""
        return [each for each in self.matrices if each.short not in _HEAD | _EMBEDDINGS and each.block]

    @property
    def vocabulary(self) -> int:
        return self._table.outputs

    @property
    def hidden(self) -> int:
        """Numbers that stand for a token between the layers."""
        return self._table.inputs

    @cached_property
    def _table(self) -> Linear:
        outside = (each for each in self.matrices if not each.block)
        return max(outside, key=lambda each: each.size, default=Linear("", 0, 0))

    @property
    def routed(self) -> float:
        """Of a mixture's experts, the share that sees a token."""
        for count in ("num_local_experts", "num_experts", "n_routed_experts"):
            if self.config.get(count):
                return min(1.0, float(self.config.get("num_experts_per_tok", 1)) / float(self.config[count]))
        return 1.0


def read_shapes(folder: Path) -> Shapes:
    """The sizes of the base in `folder`. Raises BadInput when its weights' headers cannot be read."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
        weights |= {name: tuple(entry["shape"]) for name, entry in _header(path).items()}
    if config.get("tie_word_embeddings"):
        weights = {name: shape for name, shape in weights.items() if name.split(".")[-2:-1] != ["lm_head"]}
    return Shapes(weights, config)


def _weight_files(folder: Path) -> list[Path]:
    """Those that are loaded; a folder may hold the same weights in another layout besides."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / _INDEX).is_file():
        try:
            names = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, KeyError) as error:
            raise BadInput(f"{folder / _INDEX} names no weights; import the base again") from error
        return [folder / name for name in sorted(set(names))]
    return sorted(folder.glob("*.safetensors"))


def _header(path: Path) -> dict[str, Any]:
    """Names, shapes and places of a file's tensors (https://huggingface.co/docs/safetensors: Format)."""
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = file.read(size) if 0 < size <= path.stat().st_size else b""
    try:
        header: dict[str, Any] = json.loads(text)
    except ValueError:
        raise BadInput(
            f"{path} is no safetensors file: its header cannot be read; import the base again"
        ) from None
    header.pop("__metadata__", None)
    return header
