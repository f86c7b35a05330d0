"""The command line: which options there are, and which values they take."""

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from typing import NoReturn

from hone_chat import __version__
from hone_chat.errors import BadConfiguration

_EPILOG = """\
environment:
  HONE_URL           the server's address, if --base-url does not name it
  HONE_API_KEY       the key; never an option, because other users can read command lines
  HONE_API_KEY_FILE  a file that holds the key, if HONE_API_KEY is not set

exit codes:
  0 answered   65 bad question   75 try again later   78 bad option, key or model
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadConfiguration(f"{message}. See: {self.prog} --help")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; a wrong one is a BadConfiguration."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_complaint(unknown[0], parser))
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hone-chat",
        description="Chat with a model behind any OpenAI-compatible server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hone-chat {__version__}")
    parser.add_argument(
        "question",
        nargs="?",
        help="answer this and leave; without it: chat, or answer what is piped in. "
        "Text that is piped in follows the question after a blank line",
    )
    _add_server_options(parser)
    _add_sampling_options(parser)
    parser.add_argument("--plain", action="store_true", help="do not render markdown")
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-url", metavar="URL", help="(default: $HONE_URL, or http://127.0.0.1:8000/v1)")
    add("--model", metavar="NAME", help="(default: the first that the server lists)")
    add("--system", metavar="TEXT", help="the system prompt (default: none)")
    add(
        "--timeout",
        type=_number("above 0", lambda value: value > 0),
        default=600.0,
        metavar="SECONDS",
        help="the longest silence of the server that is waited out (default: 600)",
    )


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling (default: the server's own settings)")
    add = group.add_argument
    at_least_0 = _number("of 0 or more", lambda value: value >= 0)
    add("--temperature", type=at_least_0, metavar="T", help="0 always takes the likeliest token")
    share = _number("above 0 and up to 1", lambda value: 0 < value <= 1)
    add("--top-p", type=share, metavar="P", help="sample from this share of the probability")
    add("--max-tokens", type=_whole(1), metavar="N", help="the longest answer, in tokens")
    above_0 = _number("above 0", lambda value: value > 0)
    add("--repetition-penalty", type=above_0, metavar="R", help="above 1 makes repeats unlikelier")
    add("--seed", type=_whole(None), metavar="N", help="makes sampling repeatable")


def _number(wanted: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and accepts(value)):
            raise argparse.ArgumentTypeError(f"must be a number {wanted}, not {text!r}")
        return value

    return convert


def _whole(minimum: int | None) -> Callable[[str], int]:
    wanted = "a whole number" if minimum is None else f"a whole number of {minimum} or more"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or (minimum is not None and value < minimum):
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}")
        return value

    return convert


def _complaint(unknown: str, parser: argparse.ArgumentParser) -> str:
    # Values are left out: what was typed after an option may be a secret.
    if not unknown.startswith("-"):
        return "more than one question: put the question in quotes"
    name = unknown.split("=")[0]
    if name == "--api-key":
        return "there is no --api-key: put the key in HONE_API_KEY or in HONE_API_KEY_FILE's file"
    known = [text for action in parser._actions for text in action.option_strings]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else " (put -- before a question that starts so)"
    return f"unknown option {name}{hint}"
