"""The base as QLoRA trained on it: linear layers that went through 4 bits and back.

NF4 with double quantisation (https://arxiv.org/abs/2305.14314), by bitsandbytes, as transformers loads a base
with `load_in_4bit`. The scales are rounded by the mean of the whole tensor's, so none is cut up before.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from hone_merger.fusing.checkpoint import StoredTensor

Rounding = Callable[[torch.Tensor], torch.Tensor]
"""What 4 bits leave of a parameter, in float32."""


def parameters_in_4_bits(base: PreTrainedModel) -> dict[str, Rounding]:
    """Those that transformers puts into 4 bits: linear layers but the output head, no embeddings, no experts.

    The rule is that of `replace_with_bnb_linear` (transformers/integrations/bitsandbytes.py). `base` is as it
    is before PEFT wraps its layers.
    """
    kept = HfQuantizer.get_modules_to_not_convert(base, None, base._keep_in_fp32_modules)
    return {
        f"{name}.weight": _transposed if isinstance(module, Conv1D) else through_4_bits
        for name, module in base.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)
    }


def through_4_bits(weights: torch.Tensor) -> torch.Tensor:
    """A matrix of [output, input] features, any float; what is left of it, in float32."""
    packed, state = quantize_4bit(weights.float().contiguous(), compress_statistics=True, quant_type="nf4")
    rounded: torch.Tensor = dequantize_4bit(packed, state)
    return rounded


def _transposed(weights: torch.Tensor) -> torch.Tensor:
    return through_4_bits(weights.T).T.contiguous()


@dataclass(frozen=True)
class Dequantized(StoredTensor):
    """A tensor of the base that reads as 4 bits leave it, in float32."""

    divisible: ClassVar[bool] = False
    rounding: Rounding = through_4_bits

    @classmethod
    def of(cls, stored: StoredTensor, rounding: Rounding) -> "Dequantized":
        held = {each.name: getattr(stored, each.name) for each in fields(stored)}
        return cls(**held, rounding=rounding)

    @property
    def read_as(self) -> torch.dtype:
        return torch.float32

    def rows(self, rows: slice) -> torch.Tensor:
        return self.read()[rows]

    def read(self) -> torch.Tensor:
        return self.rounding(super().read())
