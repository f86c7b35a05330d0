"""The base of every contract type."""

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Immutable, and strict: no unknown key, no silent conversion of one type to another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
