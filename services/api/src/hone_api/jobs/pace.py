"""When a run is likely to end, by how it has come on since its stage was begun."""

from typing import Any

from hone_api.database.tables import Job
from hone_api.jobs.states import RUNNING
from hone_contract.events import RunStatus


def paced(before: dict[str, Any] | None, attempt: int, status: RunStatus) -> dict[str, Any]:
    """What is kept of a run's pace with its job: from where it is counted, and how far the run is.

    Both are a step and a time. A stage that is begun anew counts anew: the wait before it is no pace.
    """
    here = [status.step, status.updated_at.timestamp()]
    is_same = before is not None and before["attempt"] == attempt and before["begun"][0] <= status.step
    begun = before["begun"] if before is not None and is_same else here
    return {"attempt": attempt, "begun": begun, "here": here, "total": status.total_steps}


def estimated_finish(job: Job) -> int | None:
    """Seconds since 1970. None: it does not train, or has not come further yet."""
    pace = job.progress.get("pace")
    if job.status != RUNNING or job.stage != "train" or pace is None or pace["attempt"] != job.attempt:
        return None
    (first, begun), (step, now) = pace["begun"], pace["here"]
    if step <= first:
        return None
    return int(now + (pace["total"] - step) * (now - begun) / (step - first))
