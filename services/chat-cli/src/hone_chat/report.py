"""What is told of an answer beside its text: how it ended, how fast it came, and all of it as JSON."""

import json
import re
from collections.abc import Sequence

from hone_chat.answer import Answer
from hone_chat.errors import ChatError
from hone_chat.terminal import note

_CUT = "The answer was cut at the limit of tokens; --max-tokens can set a higher one."
_LATE_CONTROL = re.compile(r"[\x7f-\x9f]")


def tell(answer: Answer, before: str, *, pace: bool) -> None:
    """Note what a reader of the answer should know, with `before` in front."""
    if answer.failure:
        return
    if answer.finish_reason == "length":
        note(before + _CUT)
    told = answer.pace.told(answer.tokens)
    if pace and told:
        note(before + told, dim=True)


def failures(answers: Sequence[Answer], before: Sequence[str]) -> list[ChatError]:
    """What went wrong, each with what stands `before` its answer."""
    pairs = [(answer.failure, start) for answer, start in zip(answers, before, strict=True)]
    return [type(failure)(f"{start}{failure}") for failure, start in pairs if failure]


def as_json(answers: Sequence[Answer]) -> str:
    """One answer as one object, several as the list `answers` in one object; one line."""
    objects = [_object(answer) for answer in answers]
    line = json.dumps(objects[0] if len(objects) == 1 else {"answers": objects}, ensure_ascii=False)
    # JSON leaves these as they are, but a terminal may obey them.
    return _LATE_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _object(answer: Answer) -> dict[str, object]:
    return {
        "model": answer.model,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "seconds": _rounded(answer.pace.seconds),
        "first_token_seconds": _rounded(answer.pace.first_seconds),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
