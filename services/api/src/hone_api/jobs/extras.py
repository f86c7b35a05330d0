"""What Hone can beyond OpenAI, asked for in a job's `metadata` under names of its own.

The SDK sends metadata as it is, so nothing of it has to be changed for these.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hone_api.database.tables import Job
from hone_api.errors import invalid
from hone_api.settings import Tunable

_PREFIX = "hone."


class Extras(BaseModel):
    """The settings of one job that OpenAI's API has no field for."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["lora", "qlora"] | None = None
    """`hone.method`. None: as the operator has set it for this model."""
    r: Annotated[int, Field(ge=1, le=512)] | None = None
    """`hone.r`: the rank of the adapter. None: the operator's."""
    alpha: Annotated[int, Field(ge=1, le=1024)] | None = None
    """`hone.alpha`: the adapter's scale is alpha / r. None: the operator's, or `r` when that is said."""
    deploy: Literal["adapter", "merged"] = "adapter"
    """`hone.deploy`: served beside its base, or fused into weights of its own."""

    def lora(self, tunable: Tunable) -> dict[str, Any]:
        """As a run spec has it."""
        r = self.r or tunable.r
        alpha = self.alpha or (r if self.r else tunable.alpha)
        return {"r": r, "alpha": alpha}


def is_merged(job: Job) -> bool:
    """Whether its model is one of weights of its own."""
    return read_extras(job.labels).deploy == "merged"


def read_extras(metadata: Mapping[str, str] | None) -> Extras:
    """Raises ApiError for a name below `hone.` that there is not, or a value that it cannot have."""
    ours = {
        key.removeprefix(_PREFIX): value for key, value in (metadata or {}).items() if key.startswith(_PREFIX)
    }
    try:
        return Extras.model_validate(ours)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"metadata.{_PREFIX}{first['loc'][0]}"
        known = ", ".join(_PREFIX + each for each in Extras.model_fields)
        told = f"there is {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise invalid(f"{name}: {told}", name) from None
