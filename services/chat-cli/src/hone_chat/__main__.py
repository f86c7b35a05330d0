"""`hone-chat`: parse and check first, load the SDK after, so that --help answers at once."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from hone_chat.errors import BadConfiguration, ChatError, RetryableFailure
from hone_chat.options import parse_options
from hone_chat.prompt import PlainPrompt, Prompt, can_edit
from hone_chat.question import full_question
from hone_chat.settings import Settings, make_settings
from hone_chat.terminal import Display, PlainDisplay, note, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `hone-chat`: the exit code, with every failure told in one line."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except ChatError as error:
        note(f"error: {one_line(str(error), longest=2000)}")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our answer has left (`… | head`): not our failure.
        _give_up_stdout()
    except OSError as error:
        _give_up_stdout()
        note(f"error: The answer cannot be written: {error}. Make room or write elsewhere.")
        return RetryableFailure.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        # The message is left out: it may repeat what was sent.
        note(f"error: hone-chat has a bug: {type(error).__name__}. Please report it.")
        raise SystemExit(ChatError.exit_code) from error
    return 0


def _run(arguments: Sequence[str]) -> None:
    settings = make_settings(parse_options(arguments), os.environ)
    _accept_any_text()
    question = full_question(settings.question, sys.stdin)
    if question is None and settings.json:
        raise BadConfiguration("--json is for one question: give it as an argument, or pipe it in.")
    _forget_sdk_environment()
    from hone_chat.session import answer_once, converse

    display = _choose_display(settings)
    if question is None:
        converse(settings, display, _choose_prompt(settings))
    else:
        answer_once(question, settings, display)


def _choose_display(settings: Settings) -> Display:
    if settings.plain or settings.json or not sys.stdout.isatty():
        return PlainDisplay()
    from hone_chat.display import MarkdownDisplay, can_draw

    return MarkdownDisplay() if can_draw() else PlainDisplay()


def _choose_prompt(settings: Settings) -> Prompt:
    if not can_edit():
        return PlainPrompt()
    from hone_chat.editor import Editor

    return Editor(settings.history)


def _accept_any_text() -> None:
    # A character that the terminal's encoding lacks is no reason to lose an answer.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _forget_sdk_environment() -> None:
    # The SDK would send OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS and others, meant for OpenAI's own
    # service, to whatever server we talk to.
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]


def _give_up_stdout() -> None:
    # Python would try once more at exit, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
