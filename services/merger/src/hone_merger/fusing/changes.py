"""Which parameters of the base an adapter changes, and how: PEFT's layers do it, one at a time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear, LoraLayer, ParamWrapper
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn

from hone_contract.errors import BadInput
from hone_merger.fusing.pieces import pieces
from hone_merger.fusing.skeleton import ADAPTER

# Elements of a product that are made, scaled and added before the next: what a core's own cache holds.
_CACHED = 256 * 1024


@dataclass(frozen=True)
class Change:
    """One parameter of the base, and what the adapter makes of it."""

    instead: torch.Tensor | None
    """Comes in its place first. None: the base's own stays."""
    layer: Any | None
    """The layer of PEFT that then adds to it. None: none does."""
    attribute: str
    """The parameter's name in that layer's base."""
    apart: bool = False
    """Whether `instead` is a copy (modules_to_save), which what is tied to the parameter does not follow."""

    @property
    def changes_nothing(self) -> bool:
        return self.instead is None and self.layer is None

    def follows(self, source: "Change") -> bool:
        """Whether it is what `source` is, by PEFT's own doing: the same tokens of tied embeddings."""
        leads = getattr(self.layer, "tied_adapter", None)
        return leads is not None and leads is source.layer

    def apply(self, weights: torch.Tensor) -> torch.Tensor:
        """The changed parameter, in the dtype of `weights`, which may be written to."""
        if self.instead is not None:
            weights = self.instead.to(weights.dtype, copy=True)
        return weights if self.layer is None else _fold(self.layer, self.attribute, weights)

    @property
    def scaling(self) -> float:
        """What the layer multiplies its product with."""
        layer: Any = self.layer
        return float(layer.scaling[ADAPTER])

    @property
    def by_rows(self) -> bool:
        """Whether each row of the result depends on that row of the parameter alone."""
        layer: Any = self.layer
        return (
            self.instead is None
            and type(layer) is Linear
            and self.attribute == "weight"
            and ADAPTER not in layer.lora_variant
            and not layer.fan_in_fan_out
        )

    def apply_to_rows(self, weights: torch.Tensor, first: int, made: torch.Tensor) -> torch.Tensor:
        """The same for the rows of a parameter from `first` on, in `made`; only where `by_rows`.

        W + (B @ A) * scaling in the order of PEFT's `Linear.get_delta_weight` and `Linear.merge`
        (peft/tuners/lora/layer.py), so that it is rounded as there.
        """
        layer: Any = self.layer
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight[first : first + len(weights)]
        chosen = list(pieces(len(weights), _CACHED // weights.shape[1]))
        room = torch.empty(max(each.stop - each.start for each in chosen), weights.shape[1], dtype=down.dtype)
        at_once = made.dtype.itemsize <= room.dtype.itemsize and _rounds_once(len(down), self.scaling)
        for rows in chosen:
            product = room[: rows.stop - rows.start]
            if at_once:
                product.copy_(weights[rows])
                made[rows] = torch.addmm(product, up[rows], down, alpha=self.scaling, out=product)
            else:
                torch.mm(up[rows], down, out=product).mul_(self.scaling)
                made[rows] = weights[rows]
                made[rows].add_(product)
        return made


def _rounds_once(rank: int, scaling: float) -> bool:
    """Whether a multiplication that adds to its result rounds as one whose result is scaled and added after.

    Scaling by a power of two rounds nothing; and so short a sum is made in one piece. But a single product is
    added before it is rounded, on some processors.
    """
    return 1 < rank <= 64 and math.frexp(scaling)[0] == 0.5


def find_changes(skeleton: PeftModel, parameters: list[str]) -> dict[str, Change]:
    """Those of the base's `parameters` that the adapter changes."""
    model = skeleton.base_model.model
    found = ((name, _change(model, name)) for name in parameters)
    return {name: change for name, change in found if change is not None}


def check_all_are_found(skeleton: PeftModel, changes: Mapping[str, Change], adapter: Path) -> None:
    """Raises BadInput for a layer of the adapter that adds something to nothing."""
    used = {id(change.layer) for change in changes.values()}
    for name, module in skeleton.base_model.model.named_modules():
        if _adds(module) and id(module) not in used:
            reason = f"the layer {name} is a {type(module).__name__}, which cannot be merged"
        elif _has_bias(module) and module.get_base_layer().bias is None:
            reason = f"lora_bias adds to the bias of {name}, which has no bias in the base"
        elif (token := _beyond(module)) is not None:
            reason = f"token {token} of trainable_token_indices is beyond the rows of {name}"
        else:
            continue
        raise BadInput(f"{adapter}: {reason}; serve the adapter beside its base, or train again without it")


def _change(model: nn.Module, name: str) -> Change | None:
    path, _, attribute = name.rpartition(".")
    module, apart = model, False
    for part in path.split("."):
        module = getattr(_inside(module), part)
        apart = apart or isinstance(module, ModulesToSaveWrapper)
    value: torch.Tensor = getattr(_inside(module), attribute)
    instead = None if value.is_meta else value.detach()
    change = Change(instead, _layer(module, attribute), attribute, apart)
    return None if change.changes_nothing else change


def _inside(module: nn.Module) -> nn.Module:
    """What stands where the base's module stood before PEFT wrapped it."""
    inside: Any = module
    if isinstance(module, ModulesToSaveWrapper):
        inside = module.modules_to_save[ADAPTER]
    elif isinstance(module, TrainableTokensWrapper):
        inside = module.original_module
    elif isinstance(module, BaseTunerLayer):
        inside = module.get_base_layer()
    plain: nn.Module = inside
    return plain


def _layer(module: Any, attribute: str) -> Any | None:
    if isinstance(module, TrainableTokensWrapper):
        return module.token_adapter
    while isinstance(module, ParamWrapper):
        if module.parameter_name == attribute:
            return module
        module = module.base_layer
    if not _adds(module):
        return None
    return module if attribute == "weight" or (attribute == "bias" and _has_bias(module)) else None


def _adds(module: Any) -> bool:
    if isinstance(module, TrainableTokensLayer):
        return ADAPTER in module.trainable_tokens_delta
    if isinstance(module, LoraLayer):
        return ADAPTER in module.lora_A or ADAPTER in module.lora_embedding_A
    return False


def _beyond(module: Any) -> int | None:
    """A trained token that the base has no row for; None: there is none."""
    if not isinstance(module, TrainableTokensLayer):
        return None
    last = max(module.token_indices.get(ADAPTER, [0]))
    return last if last >= module.get_base_layer().weight.shape[0] else None


def _has_bias(module: Any) -> bool:
    return isinstance(module, Linear) and bool(module.lora_bias.get(ADAPTER))


@torch.no_grad()
def _fold(layer: Any, attribute: str, weights: torch.Tensor) -> torch.Tensor:
    if attribute == "bias":
        # Half of what `Linear.merge` does with lora_bias; the other half is the weight's.
        return weights.add_(layer.lora_B[ADAPTER].bias * layer.scaling[ADAPTER])
    if isinstance(layer, Linear):
        layer.lora_bias[ADAPTER] = False
    base = layer.get_base_layer()
    empty = getattr(base, attribute)
    setattr(base, attribute, nn.Parameter(weights, requires_grad=False))
    layer.merge()
    folded: torch.Tensor = getattr(base, attribute).detach()
    setattr(base, attribute, empty)
    layer.merged_adapters.clear()
    return folded
