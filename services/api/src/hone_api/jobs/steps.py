"""What all steps of a job have in common: from where they begin, and where they lead."""

import time
from pathlib import Path

from sqlalchemy.orm import Session

from hone_api.database.tables import Job
from hone_api.jobs import states
from hone_api.jobs.stages import DEPLOY, Failure
from hone_api.settings import Local
from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import ArtifactCorrupt
from hone_contract.store import Store


def same(session: Session, job: Job) -> Job | None:
    """The job as it is now. None: somebody else has brought it elsewhere meanwhile."""
    current = session.get_one(Job, job.number, with_for_update=True)
    is_same = (current.status, current.stage, current.attempt) == (job.status, job.stage, job.attempt)
    return current if is_same else None


def enter(job: Job, stage: str) -> None:
    """Go on to another stage."""
    job.stage, job.attempt, job.failures, job.not_before = stage, job.attempt + 1, 0, 0
    if stage == DEPLOY:
        job.slot = None


def try_again(session: Session, job: Job, failure: Failure, told: str, local: Local) -> bool:
    """Whether the stage is to be begun once more, after a while; `told` then says so to the client."""
    if not failure.may_pass or job.failures >= local.retries:
        return False
    wait = local.wait_before(job.failures + 1)
    job.failures, job.attempt, job.not_before = job.failures + 1, job.attempt + 1, int(time.time() + wait)
    states.tell(session, job, f"{told} in {wait:.0f} s", level="warn")
    return True


def has_store(store: Store) -> bool:
    """Whether its volume is there: without it, all that is in it would seem to be gone."""
    return (store.root / "runs").is_dir()


def base_of(store: Store, run_id: str) -> str:
    """The base's name in the store, from the adapter's own manifest. Raises HoneError."""
    return _base_of(open_artifact(store.adapter(run_id), "adapter"))


def base_of_checkpoint(folder: Path) -> str:
    """The same of a run that has not ended, by one of its checkpoints. Raises HoneError."""
    return _base_of(open_artifact(folder, "checkpoint"))


def _base_of(made: Artifact) -> str:
    if "base" not in made.manifest.lineage:
        raise ArtifactCorrupt(f"{made.path} does not say of which base it is; it must be made again")
    return made.manifest.lineage["base"].id
