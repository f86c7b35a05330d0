"""Who else is told of a training (openai/types/fine_tuning/fine_tuning_job_wandb_integration.py)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# wandb's own rules for names of projects; whatever cannot be seen has no place in any of them.
_Place = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\p{C}\p{Z}/\\#?%:]*$")]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]
# The trainer is told a list of them with commas.
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\p{C}\p{Zl}\p{Zp},]*$")]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Wandb(_Asked):
    """Where the trainer's figures go at Weights & Biases."""

    project: _Place
    entity: _Place | None = None
    name: _Name | None = None
    tags: Annotated[list[_Tag], Field(max_length=16)] | None = None


class Integration(_Asked):
    """One of those who are told; there is no other type."""

    type: Literal["wandb"]
    wandb: Wandb
