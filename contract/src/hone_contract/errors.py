"""The error tree, and what each branch means to whoever started the process.

A message says what happened, the value, and what to do next; the caller needs no traceback.
Exit codes follow BSD's sysexits.h, so that an orchestrator can tell "retry" from "never retry".
"""


class HoneError(Exception):
    """A failure with a message for a person; `exit_code` is for whoever runs the process."""

    exit_code = 70


class BadInput(HoneError):
    """The data or an artifact is wrong: the same input will fail again (EX_DATAERR)."""

    exit_code = 65


class BadConfiguration(HoneError):
    """The run spec, an option or the environment is wrong (EX_CONFIG)."""

    exit_code = 78


class RetryableFailure(HoneError):
    """Nothing is wrong with the request; the same command may succeed later (EX_TEMPFAIL)."""

    exit_code = 75


class ArtifactMissing(BadConfiguration):
    """No artifact has that name."""


class ArtifactExists(BadConfiguration):
    """An artifact with that name is there already and is not the one asked for."""


class ArtifactIncomplete(BadInput):
    """The folder has no manifest: its writer never finished, or it is no artifact."""


class ArtifactCorrupt(BadInput):
    """The folder and its manifest disagree."""


class UnsupportedSchema(BadInput):
    """The manifest was written by a newer Hone than this one."""


class ArtifactBusy(RetryableFailure):
    """Another process is writing this artifact now."""
