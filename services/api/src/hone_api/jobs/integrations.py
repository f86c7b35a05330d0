"""What a job's `integrations` are for its trainer: environment variables that the tracker itself reads."""

import os

from hone_api.database.tables import Job
from hone_api.settings import Settings

_KEY = "WANDB_API_KEY"


def tracker_environment(job: Job, settings: Settings) -> dict[str, str]:
    """Empty without any. A run that was stopped goes on in the same run of Weights & Biases."""
    if not job.integrations:
        return {}
    # The operator's: clients have none of their own here. Without it wandb looks into ~/.netrc. In a cluster
    # it would stand in a Job for all to read; there the template of the stage has it from a Secret.
    key = os.environ.get(_KEY) if settings.launcher == "local" else None
    told = job.integrations[0]["wandb"]
    said = {
        "WANDB_PROJECT": told["project"],
        "WANDB_ENTITY": told.get("entity"),
        "WANDB_NAME": told.get("name") or job.id,
        "WANDB_TAGS": ",".join(told.get("tags", [])),
        "WANDB_RUN_ID": job.id,
        "WANDB_RESUME": "allow",
        _KEY: key,
    }
    return {name: value for name, value in said.items() if value}
