"""The two ways to talk: one question and its answer, or a conversation at a prompt."""

import sys

from hone_chat import __version__
from hone_chat.commands import run_command
from hone_chat.comparison import read_answers
from hone_chat.errors import ChatError
from hone_chat.prompt import Prompt
from hone_chat.report import as_json
from hone_chat.settings import Settings
from hone_chat.speaker import titles
from hone_chat.talk import Talk, opened
from hone_chat.terminal import Display, note

_LEAVE = ("exit", "quit", "/exit", "/quit")


def answer_once(question: str, settings: Settings, display: Display) -> None:
    """Answer one question; every failure is the caller's."""
    with opened(settings, display, greets=False) as talk:
        answers = talk.start(question)
        with talk.waiter.interruptible():
            if settings.json:
                read_answers(answers, talk.waiter)
            else:
                talk.show(answers)
        failed = talk.tell(answers, pace=settings.stats)
    for failure in failed[1:]:
        note(f"error: {failure}")
    if failed:
        raise failed[0]
    if settings.json:
        sys.stdout.write(f"{as_json(answers)}\n")
        sys.stdout.flush()


def converse(settings: Settings, display: Display, prompt: Prompt) -> None:
    """Talk until the user leaves; a failure before the first prompt is the caller's."""
    # Even if a model is named, now is the time to learn that no server is there.
    with opened(settings, display, greets=True) as talk:
        note(f"hone-chat {__version__}: {talk.speaker.address}. /help helps.")
        if talk.second:
            note(f"Each question goes to {' and '.join(titles(talk.speakers))}.")
        while (line := prompt.read()) is not None and line.strip().lower() not in _LEAVE:
            try:
                with talk.waiter.interruptible():
                    _take(line, talk)
            except KeyboardInterrupt:
                note("Stopped.")
            except ChatError as error:
                note(f"error: {error}")


def _take(line: str, talk: Talk) -> None:
    if line.startswith("/"):
        if told := run_command(line, talk):
            note(told)
    elif line.strip():
        talk.ask(line.strip())
