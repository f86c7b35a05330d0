"""A disk that is full, whoever tells of it."""

import errno
import shutil
from pathlib import Path

from safetensors import SafetensorError

from hone_contract.edge import FULL
from hone_contract.errors import RetryableFailure

DISK_ERRORS = (OSError, SafetensorError, RuntimeError)
"""What a writer raises: Python, safetensors, torch.save."""
_NUMBERS = (*FULL, errno.EFBIG)
_WORDS = (
    "No space left",
    "File too large",
    # torch.save, which tells no reason.
    "PytorchStreamWriter",
    "unexpected pos",
    "iostream error",
)


def is_disk_full(error: Exception) -> bool:
    """Whether one of DISK_ERRORS means that there was no room for a file."""
    if isinstance(error, OSError):
        return error.errno in _NUMBERS
    return any(word in str(error) for word in _WORDS)


def disk_full(what: str, folder: Path, newest: int | None, error: Exception) -> RetryableFailure:
    """`what` could not be done in `folder`; `newest` is the step that the run can go on from."""
    free = shutil.disk_usage(folder).free / 1e6
    before = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is step-{newest}"
    why = error.strerror if isinstance(error, OSError) else "a file was not written to its end"
    return RetryableFailure(
        f"{what}, {free:.1f} MB are free in {folder}: {why}; make room and run the same command again; "
        f"{before}"
    )
