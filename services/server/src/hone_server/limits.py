"""How much one request, and one key, may ask for: the options, and what they come to."""

import argparse
import re
from dataclasses import dataclass, field, fields
from typing import Any

from hone_server.ngrams.size import LARGEST

_RATE = re.compile(r"[1-9][0-9]{0,11}/(second|minute|hour|day)")


def _limit(default: int | None, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for. An option `--max-NAME` sets each."""

    body: int = _limit(16 * 2**20, "bytes of a body")
    n: int = _limit(8, "answers to one prompt (n)")
    prompts: int = _limit(32, "prompts in one request for completions")
    sequences: int = _limit(64, "answers in all: n times the number of prompts")
    tokens: int | None = _limit(None, "tokens of one answer (max_tokens, max_completion_tokens)")
    """None: as many as fit the model."""
    logprobs: int = _limit(20, "alternatives for a token (logprobs, top_logprobs, prompt_logprobs)")
    stop: int = _limit(16, "strings that stop an answer")
    chars: int = _limit(256, "characters of one such string, or of a word in bad_words")
    grammar: int = _limit(64 * 2**10, "characters of a grammar, of a JSON schema, or of all tools")
    depth: int = _limit(32, "levels of nesting in them")
    logit_bias: int = _limit(1024, "entries of logit_bias")
    bad_words: int = _limit(128, "entries of bad_words")
    token_ids: int = _limit(1024, "entries of stop_token_ids and allowed_token_ids")
    messages: int = _limit(2048, "messages of a conversation, counting the parts of their contents")
    ngram: int = _limit(LARGEST, "no_repeat_ngram_size")

    def environment(self) -> dict[str, str]:
        """Variables by which vLLM's own limits follow these; it reads them when it is imported."""
        return {
            "VLLM_MAX_N_SEQUENCES": str(self.n),
            "VLLM_MAX_COMPLETION_PROMPTS": str(self.prompts),
            "VLLM_MAX_STOP_STRINGS": str(self.stop),
        }


@dataclass(frozen=True)
class RateLimits:
    """The most that one key may ask for in a time, as in `60/minute`."""

    requests: str | None = None
    """Requests for answers. None: as many as come."""
    tokens: str | None = None
    """Of prompts and answers together. None: as many as come."""


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "limits of one request", "What asks for more is refused (400; 413 for a body)."
    )
    for each in fields(Limits):
        default = "what fits the model" if each.default is None else each.default
        group.add_argument(
            f"--max-{each.name.replace('_', '-')}",
            type=_count,
            default=each.default,
            metavar="N",
            help=f"{each.metadata['meaning']} (default: {default})",
        )
    group = parser.add_argument_group(
        "limits of one key", "What comes above them is told to come later (429)."
    )
    group.add_argument("--rate-limit", type=_rate, metavar="N/UNIT", help="requests, as in 60/minute")
    group.add_argument("--token-limit", type=_rate, metavar="N/UNIT", help="tokens, as in 100000/hour")


def read_limits(options: argparse.Namespace) -> Limits:
    return Limits(**{each.name: getattr(options, f"max_{each.name}") for each in fields(Limits)})


def read_rates(options: argparse.Namespace) -> RateLimits:
    return RateLimits(requests=options.rate_limit, tokens=options.token_limit)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _rate(text: str) -> str:
    if not _RATE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no rate; write it as 60/minute (second, minute, hour, day)"
        )
    return text
