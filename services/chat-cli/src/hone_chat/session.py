"""The two ways to talk: one question and its answer, or a conversation at a prompt."""

from contextlib import closing, suppress

from hone_chat import __version__
from hone_chat.client import Answer, Client
from hone_chat.commands import run_command
from hone_chat.conversation import Conversation
from hone_chat.errors import ChatError
from hone_chat.settings import Settings
from hone_chat.terminal import Show, note

with suppress(ImportError):
    # Its import alone gives input() line editing and a history.
    import readline  # noqa: F401

_LEAVE = ("exit", "quit", "/exit", "/quit")


def answer_once(question: str, settings: Settings, client: Client, show: Show) -> None:
    """Answer one question; every failure is the caller's."""
    conversation = Conversation(settings.model or client.choose_model(), settings.system)
    with closing(client.ask(conversation.model, conversation.messages_for(question))) as answer:
        show(answer)
    _tell_if_cut(answer)


def converse(settings: Settings, client: Client, show: Show) -> None:
    """Talk until the user leaves; a failure before the first prompt is the caller's."""
    # Even if a model is named, now is the time to learn that no server is there.
    conversation = Conversation(client.choose_model(), settings.system)
    note(f"hone-chat {__version__}: {conversation.model} at {settings.base_url}. /help helps.")
    while (line := _read_line()) is not None:
        try:
            _take(line, conversation, client, show)
        except ChatError as error:
            note(f"error: {error}")


def _read_line() -> str | None:
    try:
        line = input("you> ")
    except (EOFError, KeyboardInterrupt):
        note("")
        return None
    return None if line.strip().lower() in _LEAVE else line


def _take(line: str, conversation: Conversation, client: Client, show: Show) -> None:
    if line.startswith("/"):
        note(run_command(line, conversation, client))
    elif line.strip():
        _answer(line.strip(), conversation, client, show)


def _answer(question: str, conversation: Conversation, client: Client, show: Show) -> None:
    answer = client.ask(conversation.model, conversation.messages_for(question))
    try:
        with closing(answer):
            show(answer)
    except KeyboardInterrupt:
        note("Stopped. What was said so far is kept." if answer.text else "Stopped.")
    # A turn without an answer is dropped: most chat templates want turns to alternate.
    if answer.text:
        conversation.add(question, answer.text)
    _tell_if_cut(answer)


def _tell_if_cut(answer: Answer) -> None:
    if answer.finish_reason == "length":
        note("The answer was cut at the limit of tokens; --max-tokens can set a higher one.")
