"""Names that we give: a prefix as OpenAI has it, and enough letters that nobody guesses one."""

import secrets
import string

# Small ones only: a job's id is part of a run's name, which has no others.
_LETTERS = string.ascii_lowercase + string.digits
_LENGTH = 24


def new_id(prefix: str) -> str:
    """Such as `file-` or `ftjob-`, with 24 letters and digits behind it (124 bits)."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
