"""The run spec: one file that says a whole run, from the base to the name it is served under."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from hone_contract.data_spec import DataSpec
from hone_contract.shape import Shape

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class ModelSpec(Shape):
    """The base model to start from."""

    name: Annotated[str, StringConstraints(min_length=1)]
    """`demo:smollm2-135m-instruct`, a folder (`./…`, relative to the spec), or a Hub id (`owner/name`)."""
    revision: str | None = None
    """Branch, tag or commit on the Hub. None: the default branch, resolved to a commit and recorded."""
    chat_template: Annotated[str, StringConstraints(min_length=1)] | None = None
    """`chatml`, `mistral-instruct`, or a Jinja file of your own (`./…`, relative to the spec), for training
    and serving. None: the base's own, which an instruction-tuned base has."""


class LoraSpec(Shape):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685): W + alpha / r * B @ A."""

    r: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the update."""
    alpha: Annotated[int, Field(ge=1)] = 32
    """Scale of the update, divided by r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs dropped during training."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Which layers get an adapter: every linear layer but the output head, or a list of layer names."""


class TrainingSpec(Shape):
    """How to train."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3
    """Passes over the training records."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Records a forward pass on each device."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Forward passes an optimiser step."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """Peak learning rate of AdamW."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps in which the learning rate rises from 0 to its peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens a record may have; a longer one is refused by its line, never cut."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the forward pass. auto: bfloat16 where a GPU has it, else float32."""
    seed: Annotated[int, Field(ge=0)] = 3407
    """Seed of the adapter's initial weights and of the order of the records."""


class RunSpec(Shape):
    """A whole run."""

    model: ModelSpec
    name: Name | None = None
    """Name of the run and of the model it makes. None: the base's short name with `-tuned`."""
    method: Literal["lora"] = "lora"
    """How the base is adapted."""
    data: DataSpec | None = None
    """The examples; a string or a list of strings is taken as `train`. None: they come from `--data FILE`."""
    lora: LoraSpec = LoraSpec()
    training: TrainingSpec = TrainingSpec()

    @field_validator("data", mode="before")
    @classmethod
    def _plain_path(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str | list) else value

    @property
    def title(self) -> str:
        """`name`, or the one made from the base's."""
        if self.name is not None:
            return self.name
        short = re.split(r"[/:]", self.model.name.rstrip("/"))[-1].lower()
        return (re.sub(r"[^a-z0-9._-]+", "-", short).strip("-._")[:56] or "model") + "-tuned"
