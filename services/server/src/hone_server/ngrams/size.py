"""What a request asked for, or why it cannot have it."""

import reprlib
from collections.abc import Mapping

PARAMETER = "no_repeat_ngram_size"
LARGEST = 64
"""Work and memory grow with it, and longer repetitions are for vLLM's own `repetition_detection`."""


def size_asked(extra_args: Mapping[str, object] | None) -> int:
    """The length of sequences that may not repeat; 0: nothing was asked for.

    Raises ValueError, which vLLM turns into an answer with status 400.
    """
    given = (extra_args or {}).get(PARAMETER, 0)
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= LARGEST:
        # Whatever a client sent may be long.
        shown = reprlib.repr(given)
        raise ValueError(f"{PARAMETER} {shown} is no whole number from 0 to {LARGEST}; 0 turns it off")
    return given
