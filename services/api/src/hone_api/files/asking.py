"""What a client may say of a file."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hone_api.errors import invalid

PURPOSE: Literal["fine-tune"] = "fine-tune"
"""The one that may be uploaded; `fine-tune-results` is what jobs make."""
_LONGEST_NAME = 512
# Control characters, halves of characters, and line ends other than those: nobody means them in a name.
_UNNAMEABLE = ("Cc", "Cs", "Zl", "Zp")
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
EXPIRY_FIELDS = frozenset({_ANCHOR, _SECONDS})
"""In a form, where there are no objects."""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExpiresAfter(_Asked):
    """How long a file is kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]
    """From an hour to 30 days."""


class CreateUpload(_Asked):
    """The body of `POST /uploads` (openai/types/upload_create_params.py)."""

    bytes: Annotated[int, Field(ge=1)]
    filename: str
    mime_type: Annotated[str, StringConstraints(max_length=255, pattern=r"^[!-~ ]*$")]
    purpose: str
    expires_after: ExpiresAfter | None = None


class CompleteUpload(_Asked):
    """The body of `POST /uploads/{id}/complete` (openai/types/upload_complete_params.py)."""

    part_ids: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$")] | None = None


def check_purpose(purpose: str | None) -> None:
    """Raises ApiError."""
    if not purpose:
        raise invalid(f"Say what the file is for: purpose={PURPOSE}", "purpose")
    if purpose != PURPOSE:
        raise invalid(f"The purpose {purpose[:64]!a} is not supported here; use {PURPOSE}", "purpose")


def check_name(name: str) -> None:
    """It names nothing on our disk, but on that of whoever downloads the file. Raises ApiError."""
    if not name or name in (".", ".."):
        raise invalid("The file has no name", "filename")
    if len(name) > _LONGEST_NAME:
        raise invalid(f"The file's name has more than {_LONGEST_NAME} characters", "filename")
    if re.search(r"[/\\]", name):
        raise invalid("The file's name is a path; give its last part only", "filename")
    if any(unicodedata.category(letter) in _UNNAMEABLE for letter in name):
        raise invalid("The file's name has a control character or a line end", "filename")


def read_expiry(fields: Mapping[str, str]) -> int | None:
    """How many seconds a form wants the file to be kept. None: for ever. Raises ApiError."""
    said = {name[len("expires_after[") : -1]: fields[name] for name in EXPIRY_FIELDS & fields.keys()}
    if not said:
        return None
    try:
        return ExpiresAfter.model_validate(said).seconds
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(["expires_after", *map(str, first["loc"])])
        raise invalid(f"{param}: {first['msg']}", param) from None
