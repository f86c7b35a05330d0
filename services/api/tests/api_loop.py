"""The reconcile loop in this process, look by look, with stages that end when a test says so."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from api_app import Stages
from sqlalchemy import delete, select, update
from stand_ins.stage import BASE, make_base

from hone_api.database.session import Database
from hone_api.database.tables import Checkpoint, Event, File, Job, Label, Model, Permission, Project
from hone_api.files.adding import add_file, kept
from hone_api.files.storage import Storage
from hone_api.jobs.creation import Resent, create_job
from hone_api.jobs.reconcile import Reconciler
from hone_api.keys import Caller
from hone_api.launcher.stages import Launcher, State
from hone_api.services import Services
from hone_api.serving.upstreams import Upstreams
from hone_api.settings import Settings
from hone_api.wire.jobs import CreateJob
from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.events import Reporter, RunStatus, StepMetrics, write_status
from hone_contract.store import Store

PROJECT = "proj_loop"
CALLER = Caller("key_loop", PROJECT, "loop", frozenset({"admin"}))


@dataclass
class Held(Stages):
    """Every stage runs until it is ended or stopped."""

    held: bool = True

    def names(self, job: str) -> list[str]:
        return sorted(name for name in self.states if name.startswith(f"{job}/"))

    def end(self, name: str, code: int | None = 0, told: str = "") -> None:
        assert self.states[name].state == "running"
        self.output(name).write_text(told)
        self.states[name] = State("ended", code)


@dataclass
class Loop:
    """One, with an empty database."""

    services: Services
    stages: Held
    slots: int = 1
    file_id: str = field(init=False)

    def __post_init__(self) -> None:
        with self.services.storage.incoming() as incoming:
            incoming.write(b'{"messages": []}\n')
            with (
                kept(self.services, incoming) as (digest, size),
                self.services.database.writing() as session,
            ):
                file = add_file(
                    session,
                    project_id=PROJECT,
                    digest=digest,
                    size=size,
                    filename="train.jsonl",
                    purpose="fine-tune",
                    status="processed",
                    now=1,
                )
                file.records, self.file_id = 12, file.id

    @property
    def store(self) -> Store:
        return Store(self.services.settings.store)

    def workspace(self, job_id: str) -> Path:
        return self.services.settings.data / "jobs" / job_id

    def tick(self, times: int = 1, launcher: Launcher | None = None) -> None:
        for _ in range(times):
            Reconciler(self.services, launcher or self.stages, self.slots).tick()

    def create(self, **asked: Any) -> str:
        """A job, as a client makes it. Raises ApiError."""
        body = {"model": "stand-in", "training_file": self.file_id, **asked}
        with self.services.database.writing() as session:
            settings, request = self.services.settings, CreateJob.model_validate(body)
            return create_job(session, settings, CALLER, request, Resent()).id

    def begin(self, **asked: Any) -> str:
        """A job whose training is begun."""
        job_id = self.create(**asked)
        self.tick(3)
        assert f"{job_id}/1-train" in self.stages.states, self.told(job_id)
        return job_id

    def trained(self, **asked: Any) -> str:
        """A job whose training has ended well: the next look takes it on."""
        job_id = self.begin(**asked)
        self.write_run(job_id, range(1, 4), checkpoints=(1, 2, 3))
        self.stages.end(f"{job_id}/1-train")
        return job_id

    def write_run(self, job_id: str, steps: Iterable[int], checkpoints: Iterable[int] = ()) -> str:
        """What a trainer leaves in the store and in the job's folder."""
        run_id = f"{job_id}-0123456789"
        steps = [*steps]
        self.write_metrics(job_id, steps, total=steps[-1])
        self.write_checkpoints(job_id, *checkpoints)
        self.write_adapter(run_id)
        (self.workspace(job_id) / "out" / "run-id").write_text(run_id)
        return run_id

    def write_checkpoints(self, job_id: str, *steps: int) -> None:
        """What a run saves while it trains."""
        run_id, lineage = f"{job_id}-0123456789", {"base": self._base().source}
        for step in steps:
            with draft(self.store.checkpoint(run_id, step), None) as partial:
                (partial / "adapter_config.json").write_text("{}")
                seal(partial, "checkpoint", f"{run_id}-{step}", lineage=lineage)

    def write_metrics(
        self, job_id: str, steps: Iterable[int], width: int = 0, clock: int = 0, total: int = 9
    ) -> None:
        """All lines anew, each `width` digits longer than it would be; at `clock` seconds since 1970."""
        run = self.store.run(f"{job_id}-0123456789")
        run.mkdir(parents=True, exist_ok=True)
        steps = [*steps]
        lines = [
            StepMetrics(step=step, epoch=1, loss=2, tokens=10 ** (width + 1)).model_dump_json()
            for step in steps
        ]
        (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        told = {"step": steps[-1], "total_steps": total, "updated_at": datetime.fromtimestamp(clock, UTC)}
        write_status(run / "status.json", RunStatus(run_id=run.name, state="running", **told))

    def write_adapter(self, name: str) -> None:
        with draft(self.store.adapter(name), None) as partial:
            (partial / "adapter_config.json").write_text("{}")
            seal(partial, "adapter", name, lineage={"base": self._base().source})

    def _base(self) -> Artifact:
        if not self.store.base(BASE).exists():
            make_base(self.store)
        return open_artifact(self.store.base(BASE), "base")

    def job(self, job_id: str) -> Job:
        with self.services.database.reading() as session:
            return session.scalars(select(Job).where(Job.id == job_id)).one()

    def change(self, job_id: str, **columns: Any) -> None:
        with self.services.database.writing() as session:
            session.execute(update(Job).where(Job.id == job_id).values(**columns))

    def events(self, job_id: str) -> list[Event]:
        with self.services.database.reading() as session:
            mine = select(Event).join(Job, Job.number == Event.job_number).where(Job.id == job_id)
            return [*session.scalars(mine.order_by(Event.number))]

    def checkpoints(self, job_id: str) -> dict[int, Checkpoint]:
        """By their steps."""
        with self.services.database.reading() as session:
            mine = select(Checkpoint).join(Job, Job.number == Checkpoint.job_number).where(Job.id == job_id)
            return {each.step: each for each in session.scalars(mine.order_by(Checkpoint.step))}

    def told(self, job_id: str) -> list[str]:
        return [event.message for event in self.events(job_id)]

    def steps(self, job_id: str) -> list[int]:
        """Of the events that are about training."""
        return [event.data["step"] for event in self.events(job_id) if event.type == "metrics"]


@contextmanager
def emptied(url: str) -> Iterator[Database]:
    """The database with its tables and one project, for all tests of a module."""
    database = Database(url)
    database.upgrade()
    with database.writing() as session:
        session.add(Project(id=PROJECT, name=CALLER.project, created_at=1))
    yield database
    database.close()


def new_loop(folder: Path, database: Database, **settings: Any) -> Loop:
    """Nothing of an earlier test is left in the database."""
    with database.writing() as session:
        for table in (Permission, Model, Checkpoint, Event, Label, Job, File):
            session.execute(delete(table))
    # With a space, as people have it.
    told = {
        "data": folder / "the data",
        "store": folder / "the store",
        "models": {"stand-in": {"base": f"/bases/{BASE}"}},
    }
    made = Settings.model_validate(told | settings)
    made.data.mkdir()
    services = Services(
        made, database, Storage(made.data), Upstreams(made), Reporter("api", folder / "log.jsonl")
    )
    (folder / "output").mkdir()
    return Loop(services, Held(folder / "output"))
