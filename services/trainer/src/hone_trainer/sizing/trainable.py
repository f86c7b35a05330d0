"""Which weights a run trains, and how many they are."""

import math
from dataclasses import dataclass

from hone_contract.run_spec import LoraSpec
from hone_trainer.layer_names import PROJECTIONS, is_named, matches
from hone_trainer.sizing.shapes import Shapes


@dataclass(frozen=True)
class Trainable:
    """What a run adds to a base, and what it changes."""

    adapted: dict[str, int]
    """Layers that get an adapter, and its rank; with full fine-tuning every linear layer, with 0."""
    added: int
    """Parameters of the adapters."""
    whole: int
    """Parameters that are trained whole: all of them, or copies of the layers in modules_to_save."""

    @property
    def count(self) -> int:
        return self.added + self.whole


def everything(shapes: Shapes) -> Trainable:
    """What full fine-tuning trains."""
    return Trainable({each.name: 0 for each in shapes.linears}, 0, shapes.parameters)


def adapters(shapes: Shapes, lora: LoraSpec) -> Trainable:
    """What LoRA trains: A (rank × inputs) and B (outputs × rank) for each target, as PEFT chooses them.

    DoRA adds a magnitude for each output. modules_to_save adds whole layers.
    """
    if lora.target_modules == "all-linear":
        adapted = [each for each in shapes.linears if not each.is_expert]
    else:
        targets = PROJECTIONS if lora.target_modules == "projections" else lora.target_modules
        adapted = [each for each in shapes.matrices if is_named(each.name, targets)]
    ranks = {each.name: _rank(each.name, lora) for each in adapted}
    added = sum(ranks[each.name] * (each.inputs + each.outputs) for each in adapted)
    if lora.use_dora:
        added += sum(each.outputs for each in adapted)
    whole = sum(math.prod(shape) for name, shape in shapes.weights.items() if _is_saved(name, lora))
    return Trainable(ranks, added, whole)


def _is_saved(weight: str, lora: LoraSpec) -> bool:
    """A module that is named, or any module within it."""
    parts = weight.split(".")
    return any(is_named(".".join(parts[:end]), lora.modules_to_save) for end in range(1, len(parts)))


def _rank(layer: str, lora: LoraSpec) -> int:
    """As PEFT reads rank_pattern: the first key that matches the end of the layer's name."""
    for key, rank in lora.rank_pattern.items():
        if matches(key, layer):
            return rank
    return lora.r
