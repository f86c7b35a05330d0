"""The question of a one-shot run: what was typed, followed by what was piped in."""

from typing import TextIO

from hone_chat.errors import BadInput


def full_question(typed: str | None, stdin: TextIO | None) -> str | None:
    """Join the typed question and the piped text; None means: hold a conversation."""
    if typed is None and stdin is not None and stdin.isatty():
        return None
    parts = [_checked(typed or ""), _piped_text(stdin)]
    question = "\n\n".join(part for part in parts if part.strip())
    if not question:
        raise BadInput('The question is empty. Ask one: hone-chat "What is the capital of France?"')
    return question


def _piped_text(stdin: TextIO | None) -> str:
    if stdin is None or stdin.isatty():
        return ""
    data = stdin.buffer.read()
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"The piped text is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}. "
            "Convert it first, for instance with iconv."
        ) from error


def _checked(typed: str) -> str:
    # Python hides bytes of a command line that are no text in lone surrogates.
    try:
        typed.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput("The question is not UTF-8. Set the terminal to UTF-8.") from error
    return typed
