"""One example, in the only form that the rest of the trainer knows. A sealed dataset holds one a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

Message = dict[str, Any]
"""OpenAI's: `role` and `content`; an assistant's may have `tool_calls` and a `weight` of 0 (not learned)
or 1, a tool's has `tool_call_id`; any may have a `name`. The content is always a string."""
Messages = list[Message]


@dataclass(frozen=True)
class Record:
    """One conversation that ends with the assistant's answer, and the place that it came from."""

    messages: Messages
    source: str
    """`file:line`."""
    tools: list[dict[str, Any]] | None = None
    """The functions that the assistant may call, as OpenAI's `tools`."""
    text: str | None = None
    """How the model sees the record, where that is not the chat template's affair: plain text, or a format
    of the user's. `messages` then says the same for whoever needs turns."""
    trained: list[list[int]] | None = None
    """With `text`: start and end, in characters, of each part of it that is learned."""
    chosen: Messages | None = None
    """A preference pair's better answer to `messages`, which then ends with the user's turn."""
    rejected: Messages | None = None
    """Its worse answer."""

    @property
    def is_preference(self) -> bool:
        return self.chosen is not None

    @property
    def conversations(self) -> list["Record"]:
        """As a model is shown it: of a preference pair each answer, the better one first, and no other turn
        is learned."""
        if self.chosen is None or self.rejected is None:
            return [self]
        # What the assistant said before is part of the question.
        asked = [{**each, "weight": 0} if each["role"] == "assistant" else each for each in self.messages]
        return [
            replace(self, messages=asked + answer, chosen=None, rejected=None)
            for answer in (self.chosen, self.rejected)
        ]

    def to_json(self) -> str:
        """One line of a sealed dataset; what is None is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(
            {name: value for name, value in values.items() if value is not None}, ensure_ascii=False
        )

    @classmethod
    def from_json(cls, line: str) -> "Record":
        return cls(**json.loads(line))


def load_records(path: Path) -> list[Record]:
    """Read a sealed dataset's file, which `Record.to_json` wrote."""
    return list(iter_records(path))


def spread(records: list[Record], count: int) -> list[Record]:
    """At most `count` of them, evenly spread over the whole list."""
    count = min(count, len(records))
    return [records[index * len(records) // count] for index in range(count)]


def iter_records(path: Path) -> Iterator[Record]:
    """Likewise, one by one."""
    # Files break lines at \n alone when newline is "\n"; U+2028 may stand inside a JSON string.
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield Record.from_json(line)
