"""How tokens are drawn: the settings that go with each question, and which values they take."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from hone_chat.rule import Number, Rule


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. None leaves a choice to the server: nothing is sent, its own default holds."""

    temperature: float | None = None
    """0 always takes the likeliest token. None: the server chooses."""

    top_p: float | None = None
    """The share of the probability that is drawn from. None: the server chooses."""

    max_tokens: int | None = None
    """The longest answer. None: the server chooses."""

    repetition_penalty: float | None = None
    """Above 1 makes tokens that came before unlikelier. None: the server chooses."""

    no_repeat_ngram_size: int | None = None
    """So many tokens in a row never come twice; 0 is off. None: the server chooses."""

    seed: int | None = None
    """Makes drawing repeatable. None: the server chooses."""

    def given(self) -> dict[str, Number]:
        """What is not left to the server, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


RULES: Mapping[str, Rule] = {
    "temperature": Rule("a number of 0 or more", lambda value: value >= 0),
    "top_p": Rule("a number above 0 and up to 1", lambda value: 0 < value <= 1),
    "max_tokens": Rule("a whole number of 1 or more", lambda value: value >= 1, whole=True),
    "repetition_penalty": Rule("a number above 0", lambda value: value > 0),
    "no_repeat_ngram_size": Rule("a whole number of 0 or more", lambda value: value >= 0, whole=True),
    "seed": Rule("a whole number", whole=True),
}
"""The rule of each setting, in the order in which they are shown."""
