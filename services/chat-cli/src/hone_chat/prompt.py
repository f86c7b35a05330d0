"""Where a person types: a line is a question or a command, and a question may have several lines."""

import sys
from typing import Protocol

from hone_chat.terminal import is_dumb, note

PROMPT = "you> "
MORE = "...> "
GOES_ON = "\\"
"""At the end of a line: the question goes on in the next one."""


class Prompt(Protocol):
    """Reads what a person types."""

    def read(self) -> str | None:
        """What was typed; None: the person leaves."""


class PlainPrompt:
    """For a terminal that can do no more than print: whole lines, without a history."""

    def read(self) -> str | None:
        """Lines until one does not go on; Ctrl-C and Ctrl-D leave."""
        lines: list[str] = []
        try:
            while not lines or lines[-1].endswith(GOES_ON):
                # Not input(PROMPT): that would write to stdout, which is for answers.
                sys.stderr.write(MORE if lines else PROMPT)
                sys.stderr.flush()
                lines.append(input())
        except (EOFError, KeyboardInterrupt):
            note("")
            return None
        return "\n".join([*(line.removesuffix(GOES_ON) for line in lines[:-1]), lines[-1]])


def can_edit() -> bool:
    """Whether a line can be edited: prompts are drawn on stderr, or else on stdout."""
    return not is_dumb() and (sys.stderr.isatty() or sys.stdout.isatty())
