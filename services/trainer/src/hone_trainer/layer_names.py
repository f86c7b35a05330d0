"""How a spec names layers of a base: as PEFT has it, but a name is whole (`norm` is no `input_layernorm`)."""

import re
from collections.abc import Iterable

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What `lora.target_modules: projections` stands for."""


def is_named(layer: str, names: Iterable[str]) -> bool:
    """Whether one of the names is the layer's, or the end of it: `q_proj`, `layers.0.self_attn.q_proj`."""
    return any(f".{layer}".endswith(f".{name}") for name in names)


def matches(pattern: str, layer: str) -> bool:
    """Whether a key of `rank_pattern` or `alpha_pattern` means the layer (peft.utils.get_pattern_key).

    Raises re.error.
    """
    return re.match(rf"(.*\.)?({pattern})$", layer) is not None
