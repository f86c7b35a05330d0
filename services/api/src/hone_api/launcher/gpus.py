"""The GPUs of this machine, without the seconds and the memory that torch takes to count them."""

import os
import subprocess
from collections.abc import Mapping

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_SECONDS = 60
"""A driver that was not used for a while takes long to answer."""


def gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is to be for each: those that the api itself may see, where that is said.

    Raises subprocess.TimeoutExpired when the driver does not answer.
    """
    visible = (os.environ if environment is None else environment).get(_VISIBLE)
    count = _count()
    if visible is None or not count:
        return [str(number) for number in range(count)]
    named = [each.strip() for each in visible.split(",")]
    # CUDA ignores what follows a device that is none, such as -1.
    return named[: next((at for at, each in enumerate(named) if each in ("", "-1")), len(named))]


def _count() -> int:
    """0 where there is none, or no driver for it."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (FileNotFoundError, PermissionError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if not listed.returncode else 0
