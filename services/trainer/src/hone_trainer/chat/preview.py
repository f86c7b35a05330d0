"""`hone-trainer preview`: records as the model will see them, and what of them it learns."""

from dataclasses import dataclass
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.chat.conversation import Seen, see_all
from hone_trainer.plan import Plan
from hone_trainer.record import Record, load_records, spread
from hone_trainer.reporting.terminal import harmless

_LEARNED, _PLAIN = "\x1b[1;32m", "\x1b[0m"


@dataclass(frozen=True)
class Shown:
    """One conversation, in the parts that are learned or not."""

    source: str
    tokens: int
    learned: int
    """Tokens that are learned."""
    parts: list[tuple[str, bool]]
    """Texts with special tokens, each with whether it is learned."""

    @property
    def title(self) -> str:
        return f"{harmless(self.source)}: {self.tokens} tokens, {self.learned} learned"


def preview(plan: Plan, count: int) -> list[Shown]:
    """At most `count` of the training records, evenly spread, and of a preference pair both answers.

    Raises BadInput as training would.
    """
    tokenizer = load_tokenizer(plan.base.path, plan.chat_template)
    records = load_records(plan.dataset.path / "train.jsonl")
    return [shown for record in spread(records, count) for shown in show(tokenizer, record)]


def show(tokenizer: PreTrainedTokenizerBase, record: Record) -> list[Shown]:
    """One record's conversations. Raises BadInput as training would."""
    titles = ["preferred", "not preferred"] if record.is_preference else [""]
    return [
        Shown(f"{record.source} {title}".rstrip(), len(seen.ids), sum(seen.learned), _parts(seen))
        for title, seen in zip(titles, see_all(tokenizer, record), strict=True)
    ]


def as_text(shown: list[Shown], *, colour: bool) -> str:
    """For a terminal in colour, for anything else with what is learned between ⟦ and ⟧."""
    begin, end = (_LEARNED, _PLAIN) if colour else ("⟦", "⟧")
    bold, plain = ("\x1b[1m", _PLAIN) if colour else ("── ", "")
    return "\n".join(
        f"{bold}{record.title}{plain}\n"
        + "".join(f"{begin}{text}{end}" if learned else text for text, learned in record.parts)
        + "\n"
        for record in shown
    )


def _parts(seen: Seen) -> list[tuple[str, bool]]:
    """White space before a token goes with it."""
    parts, position = [], 0
    tokens = zip(seen.spans, seen.learned, strict=True)
    for learned, group in groupby(tokens, key=lambda token: token[1]):
        end = max(span[1] for span, _ in group)
        parts.append((harmless(seen.text[position:end]), learned))
        position = end
    rest = harmless(seen.text[position:])
    return [*parts, (rest, False)] if rest else parts
