"""Named sampling settings. A preset is a whole: what it does not name is left to the server."""

from collections.abc import Mapping

from hone_chat.sampling import Sampling
from hone_chat.spelling import did_you_mean

PRESETS: Mapping[str, Sampling] = {
    "guide": Sampling(
        temperature=0.8, top_p=0.9, max_tokens=512, repetition_penalty=1.3, no_repeat_ngram_size=3
    ),
    "precise": Sampling(temperature=0.0),
    "server": Sampling(),
}
"""`guide`: varied text, as small tuned models are often tried; `precise`: always the likeliest token."""


def find_preset(name: str) -> Sampling:
    """The preset of this name; ValueError tells which there are."""
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS)
        raise ValueError(f"must be a preset ({', '.join(PRESETS)}), not {name!r}.{hint}".rstrip("."))
    return PRESETS[name]


def name_of(sampling: Sampling) -> str | None:
    """The preset that a sampling equals; None: it is nobody's."""
    return next((name for name, preset in PRESETS.items() if preset == sampling), None)
