"""The command line: which options there are, and which values they take."""

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from hone_chat import __version__
from hone_chat.errors import BadConfiguration
from hone_chat.presets import PRESETS, find_preset
from hone_chat.rule import SECONDS, Number, Rule
from hone_chat.sampling import RULES
from hone_chat.spelling import closest

_EPILOG = """\
environment:
  HONE_URL           the server's address, if --base-url does not name it
  HONE_API_KEY       the key; never an option, because other users can read command lines
  HONE_API_KEY_FILE  a file that holds the key, if HONE_API_KEY is not set
  HONE_COMPARE_API_KEY, HONE_COMPARE_API_KEY_FILE
                     the same for the server that --compare-url names

files:
  $XDG_CONFIG_HOME/hone/chat.toml    profiles (default: ~/.config/hone/chat.toml)
  $XDG_STATE_HOME/hone/chat-history  what was typed (default: ~/.local/state/hone/chat-history)

exit codes:
  0 answered   65 bad question   75 try again later   78 bad option, profile, key or model
"""

_SAMPLING_HELP = {
    "temperature": ("T", "0 always takes the likeliest token"),
    "top_p": ("P", "sample from this share of the probability"),
    "max_tokens": ("N", "the longest answer, in tokens"),
    "repetition_penalty": ("R", "above 1 makes repeats unlikelier"),
    "no_repeat_ngram_size": ("N", "no N tokens in a row come twice; 0 is off"),
    "seed": ("N", "makes sampling repeatable"),
}


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
    _add_comparison_options(parser)
    _add_sampling_options(parser)
    _add_output_options(parser)
    return parser


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-url", metavar="URL", help="(default: $HONE_URL, or http://127.0.0.1:8000/v1)")
    add("--model", type=_text, metavar="NAME", help="(default: the first that the server lists)")
    add("--system", type=_text, metavar="TEXT", help="the system prompt (default: none)")
    add(
        "--timeout",
        type=_number(SECONDS),
        metavar="SECONDS",
        help="the longest silence of the server that is waited out (default: 600)",
    )
    add("--profile", metavar="NAME", help="take defaults from this profile (default: default_profile)")
    add("--config", metavar="FILE", help="the file with the profiles")


def _add_comparison_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("comparison").add_argument
    add(
        "--compare",
        type=_text,
        metavar="NAME",
        help="put each question to this model too; off: to none, whatever the profile says",
    )
    add("--compare-url", metavar="URL", help="where the second model is (default: on the same server)")


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling (default: the server's own settings)").add_argument
    add("--preset", type=_preset_name, metavar="NAME", help=f"one of: {', '.join(PRESETS)}")
    for name, (metavar, text) in _SAMPLING_HELP.items():
        add(f"--{name.replace('_', '-')}", type=_number(RULES[name]), metavar=metavar, help=text)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--plain", action="store_true", help="do not render markdown")
    add("--json", action="store_true", help="print one JSON object in place of the answer")
    add("--stats", action="store_true", help="say how fast the answer came, as a conversation does")
    add("--no-history", action="store_true", help="neither read nor write the file of what was typed")


def _number(rule: Rule) -> Callable[[str], Number]:
    def convert(text: str) -> Number:
        try:
            return rule.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _preset_name(text: str) -> str:
    try:
        find_preset(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _text(text: str) -> str:
    # Python hides bytes of a command line that are no text in lone surrogates.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8; set the terminal to UTF-8") from None
    return text


def _complaint(unknown: str, parser: argparse.ArgumentParser) -> str:
    # Values are left out: what was typed after an option may be a secret.
    if not unknown.startswith("-"):
        return "more than one question: put the question in quotes"
    name = unknown.split("=")[0]
    if name == "--api-key":
        return "there is no --api-key: put the key in HONE_API_KEY or in HONE_API_KEY_FILE's file"
    known = [text for action in parser._actions for text in action.option_strings]
    meant = closest(name, known)
    hint = f"; did you mean {meant}?" if meant else " (put -- before a question that starts so)"
    return f"unknown option {name}{hint}"
