"""The tables. Times are whole seconds since 1970, as OpenAI's API has them.

Rows have a `number`, which grows, for the order in which they were made; `id` is what clients know.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite counts by itself only in an INTEGER.
Number = BigInteger().with_variant(Integer, "sqlite")
_ID, _NAME = String(64), String(512)
_NO_ADAPTER_YET = text("served_as IS NULL")


class Table(DeclarativeBase):
    """What all tables have."""

    type_annotation_map = {
        dict[str, Any]: JSON,
        list[str]: JSON,
        str: Text,
        int: BigInteger,
        bytes: LargeBinary,
    }


class Project(Table):
    """Whose files, jobs and models are apart from those of others."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    created_at: Mapped[int]


class Key(Table):
    """A key of a client; it is known by its digest only."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    """SHA-256; a key is long and random, so it needs no salt."""
    hint: Mapped[str] = mapped_column(_NAME)
    """The key's first letters, by which people tell keys apart."""
    scopes: Mapped[list[str]]
    created_at: Mapped[int]
    revoked_at: Mapped[int | None]
    requests_per_minute: Mapped[int | None]
    """For models to answer. None: as the settings say; 0: as many as come."""
    tokens_per_minute: Mapped[int | None]
    """Of prompts and answers together. None and 0: likewise."""


class Used(Table):
    """What one key has asked of one model on one day (UTC)."""

    __tablename__ = "usage"

    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Its first second."""
    key_id: Mapped[str] = mapped_column(ForeignKey("keys.id"), primary_key=True)
    model: Mapped[str] = mapped_column(_NAME, primary_key=True)
    """As it was asked for."""
    requests: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]


class File(Table):
    """What was uploaded, or made by a job. Its bytes lie on disk by their digest."""

    __tablename__ = "files"
    __table_args__ = (Index("files_of_project", "project_id", "number"), Index("files_by_digest", "digest"))

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_ID, unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    digest: Mapped[str] = mapped_column(_ID)
    """SHA-256 in hexadecimal."""
    bytes: Mapped[int]
    filename: Mapped[str]
    """As the client calls it; nothing on disk has this name."""
    purpose: Mapped[str] = mapped_column(_ID)
    status: Mapped[str] = mapped_column(_ID)
    status_details: Mapped[str | None]
    records: Mapped[int | None]
    """Examples in it. None: not read yet, or no training file."""
    check_until: Mapped[int | None]
    """When its reading is to have ended. None: it was not begun; 0: it was stopped then."""
    created_at: Mapped[int]
    expires_at: Mapped[int | None]


class Upload(Table):
    """A file that comes in parts."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    bytes: Mapped[int]
    """As promised: what the parts must have together."""
    filename: Mapped[str]
    mime_type: Mapped[str]
    purpose: Mapped[str] = mapped_column(_ID)
    status: Mapped[str] = mapped_column(_ID)
    created_at: Mapped[int]
    expires_at: Mapped[int]
    file_seconds: Mapped[int | None]
    """How long the file is kept. None: until it is deleted."""
    file_id: Mapped[str | None] = mapped_column(_ID)


class Part(Table):
    """One of an upload's parts, on disk under its id."""

    __tablename__ = "parts"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    bytes: Mapped[int]
    created_at: Mapped[int]


class Job(Table):
    """A fine-tuning job: what was asked, and where it stands."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_of_project", "project_id", "number"),
        Index("jobs_by_status", "status", "number"),
        Index("jobs_by_request", "project_id", "request_digest", "number"),
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_ID, unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[int]
    model: Mapped[str] = mapped_column(_NAME)
    """As asked for: one of the names in the settings."""
    training_file: Mapped[str] = mapped_column(_ID)
    validation_file: Mapped[str | None] = mapped_column(_ID)
    method: Mapped[dict[str, Any]]
    """Its `type`; the hyperparameters are in `resolved`."""
    resolved: Mapped[dict[str, Any]]
    """n_epochs, batch_size and learning_rate_multiplier, as numbers once they are known."""
    suffix: Mapped[str | None]
    seed: Mapped[int]
    labels: Mapped[dict[str, Any]]
    """The client's `metadata`, which is a name that SQLAlchemy has."""
    integrations: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """As asked for: none, or one of type wandb."""

    status: Mapped[str] = mapped_column(_ID)
    stage: Mapped[str] = mapped_column(_ID)
    """Of a running job: train, merge or deploy; of one that has succeeded: end."""
    attempt: Mapped[int]
    """Counts the beginnings of stages; each has a name of its own."""
    slot: Mapped[int | None]
    """Where the stage runs, from before it is begun until it is known to have ended. None: nothing runs."""
    failures: Mapped[int]
    """Of the stage, since it last came further."""
    not_before: Mapped[int]
    """When the next attempt may begin."""
    progress: Mapped[dict[str, Any]]
    """How far the run's metrics have become events."""
    run_id: Mapped[str | None] = mapped_column(_NAME)

    fine_tuned_model: Mapped[str | None] = mapped_column(_NAME)
    finished_at: Mapped[int | None]
    trained_tokens: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]
    result_files: Mapped[list[str]]
    request_digest: Mapped[str | None] = mapped_column(_ID)
    """Of what the client sent, by which a request that is sent again is known."""
    idempotency_key: Mapped[str | None] = mapped_column(_NAME, unique=True)
    """Digest of the client's, so that two clients' are apart."""


class Label(Table):
    """One pair of a job's metadata, to be found by."""

    __tablename__ = "labels"
    __table_args__ = (Index("labels_by_value", "key", "value", "job_number"),)

    job_number: Mapped[int] = mapped_column(ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(_NAME)


class Event(Table):
    """Something that happened to a job."""

    __tablename__ = "events"
    __table_args__ = (Index("events_of_job", "job_number", "number"),)

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_ID, unique=True)
    job_number: Mapped[int] = mapped_column(ForeignKey("jobs.number", ondelete="CASCADE"))
    created_at: Mapped[int]
    level: Mapped[str] = mapped_column(_ID)
    message: Mapped[str]
    type: Mapped[str] = mapped_column(_ID)
    """message or metrics."""
    data: Mapped[dict[str, Any]]


class Checkpoint(Table):
    """A state of a job's model that can be used by a name of its own."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("job_number", "step"),
        Index(
            "checkpoints_without_adapter",
            "job_number",
            "number",
            sqlite_where=_NO_ADAPTER_YET,
            postgresql_where=_NO_ADAPTER_YET,
        ),
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_ID, unique=True)
    job_number: Mapped[int] = mapped_column(ForeignKey("jobs.number", ondelete="CASCADE"))
    created_at: Mapped[int]
    step: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    model: Mapped[str] = mapped_column(_NAME, unique=True)
    """By which it is asked."""
    served_as: Mapped[str | None] = mapped_column(_NAME)
    """The adapter that was made of it. None: not yet; empty: none can be made."""
    importing: Mapped[bool] = mapped_column(default=False)
    """Whether one is being made, from before that is begun until it is known to have ended."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Counts its beginnings; each has a name of its own."""
    not_before: Mapped[int] = mapped_column(default=0)
    """When the next attempt may begin."""


class Model(Table):
    """A fine-tuned model under its `ft:` name."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(_NAME, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    job_number: Mapped[int] = mapped_column(ForeignKey("jobs.number"))
    created_at: Mapped[int]
    base: Mapped[str] = mapped_column(_NAME)
    """The base's name in the store."""
    served_as: Mapped[str] = mapped_column(_NAME)
    """What servers call it: the adapter's id, or the name of the merged model."""
    merged: Mapped[bool]
    deleted_at: Mapped[int | None]
    """The row stays, so that what a project published under a name is nobody else's afterwards."""


class Permission(Table):
    """A model or checkpoint that another project may ask too."""

    __tablename__ = "permissions"
    __table_args__ = (UniqueConstraint("model", "project_id"), Index("permissions_of_project", "project_id"))

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_ID, unique=True)
    model: Mapped[str] = mapped_column(_NAME)
    """By which it is asked."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    """The one that may."""
    created_at: Mapped[int]
