"""A model whose weights, gradients and optimizer are shared out over the processes (PyTorch's FSDP2).

Not by way of Trainer's `fsdp`: that leaves out CPUs, on which it is tested.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from hone_trainer.training.ranks import rank, world

_AVERAGE = "average"


class Shards:
    """This process's part of every weight. All processes call the same methods at the same time."""

    def __init__(self, model: Any, device: torch.device, computes_in: torch.dtype) -> None:
        """Split `model`, which every process has whole; its parts come to `device`.

        Each decoder layer is put together when it is needed, in the number format `computes_in`.
        """
        self.model = model
        mesh = init_device_mesh(device.type, (world(),))
        narrow = None if computes_in is torch.float32 else computes_in
        policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32 if narrow else None)
        layers = set(model._no_split_modules or ())
        for module in list(model.modules()):
            if type(module).__name__ in layers:
                fully_shard(module, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)

    def learned(self) -> dict[str, Any]:
        """What is trained, a DTensor each, by its name in the model."""
        # An evaluation leaves some of it put together.
        reshard(self.model)
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    @torch.no_grad()
    def whole(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """All that is trained, put together in the first process's main memory; elsewhere nothing."""
        together = {}
        for name, each in self.learned().items():
            full = each.full_tensor()
            if rank() == 0:
                together[name] = full.to("cpu", dtype)
        return together

    @torch.no_grad()
    def write(self, folder: Path, optimizer: Any, scheduler: Any) -> None:
        """This process's part of a checkpoint."""
        state = optimizer.state_dict()
        tensors = {_weight(name): _own(each) for name, each in self.learned().items()}
        for number, values in state["state"].items():
            tensors |= {_average(number, name): _own(value) for name, value in values.items()}
        settings = {"groups": state["param_groups"], "scheduler": scheduler.state_dict()}
        save_file(tensors, _file(folder), {"settings": json.dumps(settings)})

    @torch.no_grad()
    def read(self, folder: Path) -> None:
        """Weights, as `write` left them."""
        with safe_open(_file(folder), "pt") as part:
            for name, each in self.learned().items():
                each.to_local().copy_(part.get_tensor(_weight(name)))

    def read_optimizer(self, folder: Path, optimizer: Any, scheduler: Any) -> None:
        """Likewise what `read` leaves out."""
        learned = [each for group in optimizer.param_groups for each in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        with safe_open(_file(folder), "pt") as part:
            settings = json.loads(part.metadata()["settings"])
            for key in part.keys():
                kind, number, name = key.split(".", 2)
                if kind == _AVERAGE:
                    value = _split_as(learned[int(number)], part.get_tensor(key))
                    state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": settings["groups"]})
        scheduler.load_state_dict(settings["scheduler"])


def reshard(model: Any) -> None:
    """Leave no part of a model put together, if it is split."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _weight(name: str) -> str:
    return f"weight..{name}"


def _average(number: int, name: str) -> str:
    """AdamW's, of the parameter with this number."""
    return f"{_AVERAGE}.{number}.{name}"


def _file(folder: Path) -> Path:
    return folder / f"shard_{rank()}.safetensors"


def _own(value: Any) -> torch.Tensor:
    return (value.to_local() if isinstance(value, DTensor) else value).contiguous()


def _split_as(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """This process's part of an average of the parameter; the number of steps is not split."""
    if value.dim() == 0:
        return value
    return DTensor.from_local(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
