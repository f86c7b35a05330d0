"""`hone-chat`: parse and check first, load the SDK after, so that --help answers at once."""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from hone_chat.errors import ChatError, RetryableFailure
from hone_chat.options import parse_options
from hone_chat.question import full_question
from hone_chat.settings import Settings, make_settings
from hone_chat.terminal import Show, note, one_line, show_plain


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
    _forget_sdk_environment()
    from hone_chat.client import Client
    from hone_chat.session import answer_once, converse

    client = Client(settings)
    show = _choose_show(settings)
    if question is None:
        converse(settings, client, show)
    else:
        answer_once(question, settings, client, show)


def _choose_show(settings: Settings) -> Show:
    if settings.plain or not sys.stdout.isatty():
        return show_plain
    from hone_chat.markdown import can_draw, show_markdown

    return show_markdown if can_draw() else show_plain


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
