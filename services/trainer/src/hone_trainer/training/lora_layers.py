"""LoRA layers in fewer and larger operations, for CPUs."""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ with W frozen.

    PEFT's layer adds the same in steps of their own, each a pass over memory, and keeps more for later.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ a.t()
        y = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        y.addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, inner)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        rows, weight, a, b, inner = ctx.saved_tensors
        gradient = outer[0].reshape(-1, outer[0].shape[-1])
        through = gradient @ b
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ weight).addmm_(through, a, alpha=ctx.scale).view(ctx.shape)
        of_a = (through.t() @ rows).mul_(ctx.scale)
        of_b = (gradient.t() @ inner).mul_(ctx.scale)
        return of_x, None, None, of_a, of_b, None


def speed_up(model: torch.nn.Module) -> int:
    """Let each plain LoRA layer in float32 on the CPU compute so; returns how many do.

    Left as they are: layers with dropout, DoRA, a bias of their own, or a base in 4 bits.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    [name] = layer.active_adapters
    weights = [layer.base_layer.weight, layer.lora_A[name].weight, layer.lora_B[name].weight]
    return (
        type(layer.base_layer) is torch.nn.Linear
        and not layer.base_layer.weight.requires_grad
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_B[name].bias is None
        and all(weight.dtype is torch.float32 and weight.device.type == "cpu" for weight in weights)
    )


def _forward(layer: Any, x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
    if layer.disable_adapters or layer.merged or options or arguments or x.dtype is not torch.float32:
        return Linear.forward(layer, x, *arguments, **options)
    [name] = layer.active_adapters
    base, a, b = layer.base_layer, layer.lora_A[name], layer.lora_B[name]
    return _LoraLinear.apply(x, base.weight, base.bias, a.weight, b.weight, layer.scaling[name])  # type: ignore[no-untyped-call]
