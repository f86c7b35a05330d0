"""Some of the written tensors, computed once more in another way."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from hone_contract.errors import BadInput
from hone_merger.adapter_config import WEIGHTS
from hone_merger.fusing.checkpoint import StoredTensor, stored_tensors
from hone_merger.fusing.layout import Layout, Output

_TENSORS, _ROWS = 8, 64


def check_samples(layout: Layout, adapter: Path, folder: Path) -> Mapping[str, object]:
    """64 rows of up to 8 tensors as W + scaling * B @ A in float64, from the files of base and adapter.

    Where the base goes through 4 bits, W is what they leave; that rounding is judged by the probes alone.
    Raises BadInput when a written row is not that, but for rounding, or all of them are the base's.
    Only what a plain adapter of linear layers changes can be computed so; the probes judge the rest.
    """
    plain = [output for output in layout.outputs if output.change is not None and output.change.by_rows]
    chosen = plain[:: max(1, len(plain) // _TENSORS)][:_TENSORS]
    written = {tensor.name: tensor for tensor in stored_tensors(folder)}
    found = [_check(output, adapter, written[output.name]) for output in chosen]
    if found and not any(moved for _, moved in found):
        raise BadInput(f"{folder}: the adapter changes nothing of its base; nothing was published")
    return {"recomputed": len(found), "largest_error": max((error for error, _ in found), default=0.0)}


def _check(output: Output, adapter: Path, written: StoredTensor) -> tuple[float, bool]:
    """The largest error, in units of the largest element; and whether the base's rows are others."""
    assert output.stored is not None and output.change is not None
    layer = f"base_model.model.{output.parameter.removesuffix('.weight')}"
    with safe_open(adapter / WEIGHTS, "pt") as file:
        down, up = (file.get_tensor(f"{layer}.lora_{side}.weight").double() for side in "AB")
    rows = torch.linspace(0, written.shape[0] - 1, min(_ROWS, written.shape[0])).long()
    before, after = output.stored.read()[rows].double(), written.read()[rows].double()
    exact = before + output.change.scaling * (up[rows] @ down)
    largest = exact.abs().max()
    error = (after - exact).abs()
    # Half a unit in the last place of each, and the error of a sum in float32.
    allowed = exact.abs() * torch.finfo(written.dtype).eps * 0.51 + largest * 1e-5 + 1e-7
    if not bool((error <= allowed).all()):
        raise BadInput(
            f"{written.file}: tensor {output.name} is not the base's and the adapter's: it is off by "
            f"{error.max():.1e}, where its largest element is {largest:.1e}; nothing was published"
        )
    moved = not torch.equal(before.to(written.dtype), after.to(written.dtype))
    return (error.max() / largest.clamp(min=1e-30)).item(), moved
