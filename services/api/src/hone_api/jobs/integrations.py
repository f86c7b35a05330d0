"""What a job's `integrations` are for its trainer: environment variables that the tracker itself reads."""

import os

from hone_api.database.tables import Job

_KEY = "WANDB_API_KEY"


def tracker_environment(job: Job) -> dict[str, str]:
    """Empty without any. A run that was stopped goes on in the same run of Weights & Biases."""
    if not job.integrations:
        return {}
    told = job.integrations[0]["wandb"]
    said = {
        "WANDB_PROJECT": told["project"],
        "WANDB_ENTITY": told.get("entity"),
        "WANDB_NAME": told.get("name") or job.id,
        "WANDB_TAGS": ",".join(told.get("tags", [])),
        "WANDB_RUN_ID": job.id,
        "WANDB_RESUME": "allow",
        # The operator's: clients have no key of their own here. Without it wandb looks into ~/.netrc.
        _KEY: os.environ.get(_KEY),
    }
    return {name: value for name, value in said.items() if value}
