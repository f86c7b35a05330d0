"""Every way to fail that a person can do something about, each with its exit code.

A message says what happened, the value, and what to do next. The codes follow BSD's sysexits.h.
"""


class ChatError(Exception):
    """A failure told in one line; `exit_code` is for whoever started the process."""

    exit_code = 70


class BadInput(ChatError):
    """The question cannot be answered: asking the same again fails again (EX_DATAERR)."""

    exit_code = 65


class RetryableFailure(ChatError):
    """Nothing is wrong with the question; the same command may succeed later (EX_TEMPFAIL)."""

    exit_code = 75


class BadConfiguration(ChatError):
    """An option or the environment is wrong (EX_CONFIG)."""

    exit_code = 78
