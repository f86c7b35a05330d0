"""The manifest: what a finished artifact says of itself. It is written last."""

import hashlib
import json
import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, StringConstraints, ValidationError, field_validator

from hone_contract.errors import ArtifactCorrupt, UnsupportedSchema
from hone_contract.shape import Shape

FILE_NAME = "manifest.json"
SCHEMA_VERSION: Literal[1] = 1

Kind = Literal["base", "dataset", "checkpoint", "adapter", "weights", "model"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(Shape):
    """One file of the artifact."""

    path: str
    """Relative to the artifact's folder, with forward slashes."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or value != str(path) or value in ("", "."):
            raise ValueError("must be a plain path below the artifact's folder")
        return value


class Source(Shape):
    """Something that the artifact was made from."""

    id: str
    digest: Sha256 | None = None
    """Its identity where it has one; None for what lies outside the store, such as a Hub commit."""


class Manifest(Shape):
    """What a finished artifact says of itself."""

    kind: Kind
    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    created_at: datetime
    files: list[FileEntry]
    """Sorted by path; everything in the folder but the manifest itself."""
    lineage: dict[str, Source] = {}
    """What it was made from, by role: base, dataset, spec, adapter, weights; from outside: source, train,
    eval."""
    tools: dict[str, str] = {}
    """Versions of the libraries that made it."""
    metrics: dict[str, FiniteFloat] = {}
    """Numbers about it. JSON has no NaN and no infinity, so neither has a manifest."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over kind, schema version, files and lineage: the artifact's identity.

        Times, tools and metrics are left out: the same bytes from the same sources are the same
        artifact, whenever they were made.
        """
        identity = self.model_dump(mode="json", include={"kind", "schema_version", "files", "lineage"})
        return digest_of(identity)


def digest_of(value: object) -> str:
    """SHA-256 (hex) of a JSON value in one spelling: sorted keys, no white space, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def parse_manifest(text: str, where: str) -> Manifest:
    """Raises UnsupportedSchema for a newer version than ours, ArtifactCorrupt for anything else."""
    found = re.search(r'"schema_version":\s*(\d+)', text)
    if found and int(found[1]) > SCHEMA_VERSION:
        raise UnsupportedSchema(
            f"{where}: written in schema version {found[1]}, this Hone reads up to {SCHEMA_VERSION}; "
            "upgrade Hone to open it"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactCorrupt(
            f"{where}: not a manifest: {first_problem(error)}; the artifact must be made again"
        ) from None


def first_problem(error: ValidationError) -> str:
    """The first mistake that pydantic found, as `key: what is wrong`."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
