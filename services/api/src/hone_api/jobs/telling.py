"""What a command said, as the clients of an api may hear it: they see nothing of the operator's machine."""

import re
from pathlib import PurePath

from hone_api.database.tables import Job
from hone_api.jobs.workspace import EVAL, TRAIN
from hone_api.settings import Settings

_PATH = re.compile(r"(?<![\w:/.-])~?/[^\s:;,'\"()<>`]+")


def for_clients(text: str, settings: Settings, job: Job) -> str:
    """Without the folders in which things lie, and with the ids of the files that the client sent."""
    for root in (settings.data, settings.store):
        # They may have spaces in them, where a path ends otherwise.
        for known in {str(root.absolute()), str(root.resolve())}:
            text = text.replace(f"{known}/", "/")
    text = _PATH.sub(lambda found: PurePath(found[0]).name, text)
    for name, file_id in ((TRAIN, job.training_file), (EVAL, job.validation_file)):
        text = re.sub(rf"(?<![\w./-]){re.escape(name)}\b", file_id or name, text)
    return text
