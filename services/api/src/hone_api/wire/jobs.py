"""Fine-tuning jobs, their events and checkpoints (openai/types/fine_tuning)."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from hone_api.database import tables
from hone_api.jobs.pace import estimated_finish
from hone_api.wire.integrations import Integration

MOST_LABELS = 16
"""Pairs of a job's metadata."""
_Auto = Literal["auto"]
# PostgreSQL knows no NUL.
_TEXT = r"^[^\x00]*$"
_Key = Annotated[str, StringConstraints(max_length=64, pattern=_TEXT)]
_Value = Annotated[str, StringConstraints(max_length=512, pattern=_TEXT)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_TEXT)]
_FileId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TEXT)]


def _readable(suffix: str) -> str:
    """It becomes a part of the model's name, which people read and type; a space between words may be."""
    if not suffix.isprintable() or suffix != suffix.strip():
        told = "has a character that cannot be read, or a space at its beginning or end"
        raise PydanticCustomError("unreadable", told)
    return suffix


_Suffix = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_readable)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hyperparameters(_Asked):
    """What OpenAI lets one choose."""

    n_epochs: _Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: _Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: _Auto | Annotated[float, Field(gt=0, le=1000)] = "auto"


class DpoHyperparameters(Hyperparameters):
    """With preference pairs (openai/types/fine_tuning/dpo_hyperparameters.py)."""

    beta: _Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class Supervised(_Asked):
    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(_Asked):
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(_Asked):
    """How to learn; `reinforcement` is refused by name, whatever is in it."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None


class CreateJob(_Asked):
    """The body of `POST /fine_tuning/jobs` (openai/types/fine_tuning/job_create_params.py)."""

    model: _Name
    training_file: _FileId
    validation_file: _FileId | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    """Where they were before there were methods; SDKs still send them here."""
    suffix: _Suffix | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    integrations: Annotated[list[Integration], Field(max_length=1)] | None = None
    metadata: Annotated[dict[_Key, _Value], Field(max_length=MOST_LABELS)] | None = None


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class JobObject(BaseModel):
    """One job (openai/types/fine_tuning/fine_tuning_job.py)."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    model: str
    status: str
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    organization_id: str
    fine_tuned_model: str | None
    finished_at: int | None
    estimated_finish: int | None
    trained_tokens: int | None
    error: JobError | None
    result_files: list[str]
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str] | None


class EventObject(BaseModel):
    """Something that happened (openai/types/fine_tuning/fine_tuning_job_event.py)."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any]


class CheckpointObject(BaseModel):
    """A state of the model (openai/types/fine_tuning/jobs/fine_tuning_job_checkpoint.py)."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, Any]


def job_object(row: tables.Job, organization: str) -> JobObject:
    return JobObject(
        id=row.id,
        created_at=row.created_at,
        model=row.model,
        status=row.status,
        training_file=row.training_file,
        validation_file=row.validation_file,
        # Where they were before there were methods; beta never was there.
        hyperparameters={name: value for name, value in row.resolved.items() if name != "beta"},
        method={**row.method, row.method["type"]: {"hyperparameters": row.resolved}},
        seed=row.seed,
        organization_id=organization,
        fine_tuned_model=row.fine_tuned_model,
        finished_at=row.finished_at,
        estimated_finish=estimated_finish(row),
        trained_tokens=row.trained_tokens,
        error=JobError.model_validate(row.error) if row.error else None,
        result_files=row.result_files,
        integrations=row.integrations,
        metadata=row.labels or None,
    )


def event_object(row: tables.Event) -> EventObject:
    return EventObject(
        id=row.id,
        created_at=row.created_at,
        level=row.level,
        message=row.message,
        type=row.type,
        data=row.data,
    )


def checkpoint_object(row: tables.Checkpoint, job_id: str) -> CheckpointObject:
    return CheckpointObject(
        id=row.id,
        created_at=row.created_at,
        fine_tuned_model_checkpoint=row.model,
        fine_tuning_job_id=job_id,
        step_number=row.step,
        metrics=row.metrics,
    )
