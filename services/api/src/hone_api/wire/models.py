"""Models (openai/types/model.py)."""

from typing import Literal

from pydantic import BaseModel


class ModelObject(BaseModel):
    """One that can be asked, or tuned."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All of them at once, as OpenAI lists them."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
