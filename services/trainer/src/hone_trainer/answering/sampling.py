"""How the next token is chosen."""

import argparse
from dataclasses import dataclass

from hone_contract.errors import BadConfiguration


@dataclass(frozen=True)
class Sampling:
    """The likeliest token at temperature 0; above it one that is drawn. Raises BadConfiguration."""

    max_tokens: int = 512
    """Tokens an answer, at most."""
    temperature: float = 0.0
    """What logits are divided by before a token is drawn; 0 draws none."""
    top_p: float = 1.0
    """Drawn from the likeliest tokens that have this probability together; 1 is all of them."""
    top_k: int = 0
    """Drawn from so many of the likeliest tokens; 0 is all of them."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and the answer are less likely again (https://arxiv.org/abs/1909.05858)."""
    no_repeat_ngram_size: int = 0
    """No so many tokens in a row come twice in prompt and answer; 0 allows it."""
    seed: int | None = None
    """Seed of what is drawn. None: another answer every time."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}, not {getattr(self, name)!r}"
            for name, rule, holds in self._rules()
            if not holds
        ]
        if wrong:
            raise BadConfiguration("; ".join(wrong))
        if not self.draws and (self.top_p < 1 or self.top_k > 0):
            raise BadConfiguration(
                "top_p and top_k choose among tokens that are drawn, and at temperature 0 none is; "
                "set a temperature, such as 0.8"
            )

    @property
    def draws(self) -> bool:
        return self.temperature > 0

    @property
    def looks_back(self) -> bool:
        """Whether the tokens before count, the prompt's and those of padding among them."""
        return self.repetition_penalty != 1 or self.no_repeat_ngram_size > 0

    def _rules(self) -> list[tuple[str, str, bool]]:
        return [
            ("max_tokens", "1 or more", self.max_tokens >= 1),
            ("temperature", "from 0 to 2", 0 <= self.temperature <= 2),
            ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
            ("top_k", "0 or more", self.top_k >= 0),
            ("repetition_penalty", "above 0", 0 < self.repetition_penalty < float("inf")),
            ("no_repeat_ngram_size", "0 or more", self.no_repeat_ngram_size >= 0),
            ("seed", "0 or more", self.seed is None or 0 <= self.seed < 2**63),
        ]


def add_sampling(command: argparse.ArgumentParser) -> None:
    """The options that `sampling_of` reads; all but the seed and the length change nothing by default."""
    add = command.add_argument
    add("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token (default)")
    add("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest share, such as 0.9")
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest tokens")
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1, such as 1.3, makes repeats unlikelier",
    )
    add("--no-repeat-ngram-size", type=int, default=0, metavar="N", help="no N tokens in a row come twice")
    add("--seed", type=int, help="seed of what is drawn (default: another one every time)")


def sampling_of(options: argparse.Namespace) -> Sampling:
    """Raises BadConfiguration for a value that means nothing."""
    return Sampling(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        seed=options.seed,
    )
