"""Answers speak of the model by the name that the client knows, not by the server's."""

import json
import re

from hone_api.serving.model_field import find_model

_ENDS = (b"\n\n", b"\r\n\r\n")
_LONGEST = max(map(len, _ENDS))
_MOST = 16 * 2**20
"""Bytes of one event."""


class Renaming:
    """From a server's name of a model to the client's."""

    def __init__(self, theirs: str, ours: str) -> None:
        self._theirs, self._ours = theirs, ours
        quoted = [json.dumps(name).encode() for name in (theirs, ours)]
        self._fields = [(field + quoted[0], field + quoted[1]) for field in (b'"model":', b'"model": ')]
        # Within a sentence only where it is a word: a model may be called `a`.
        self._word = re.compile(rb"(?<![\w.:/-])" + re.escape(quoted[0][1:-1]) + rb"(?![\w:/-])")
        self._quoted = quoted[1][1:-1]

    async def body(self, body: bytes) -> bytes:
        """Of an answer at once; what is no JSON object stays as it is."""
        try:
            field = await find_model(body)
        except ValueError:
            return body
        return field.renamed(self._ours) if field.value == self._theirs else body

    def sentence(self, message: str) -> str:
        """Of an error."""
        return self._word.sub(lambda _: self._ours.encode(), message.encode()).decode()

    def events(self, events: bytes) -> bytes:
        """Whole events. What a model writes cannot look like a field: its quotes are escaped."""
        for theirs, ours in self._fields:
            events = events.replace(theirs, ours)
        if b'{"error"' in events:
            events = self._word.sub(lambda _: self._quoted, events)
        return events


class EventStream:
    """Bytes as they come from a server, cut where events end, so that a name is never cut in two."""

    def __init__(self, renaming: Renaming) -> None:
        self._renaming = renaming
        self._rest = bytearray()

    def take(self, chunk: bytes) -> bytes:
        """What can be sent now: all events that are complete. Raises ValueError for one without an end."""
        if not self._rest and chunk.endswith(_ENDS):
            return self._renaming.events(chunk)
        searched = max(0, len(self._rest) - _LONGEST)
        self._rest += chunk
        end = max(
            (at + len(mark) for mark in _ENDS if (at := self._rest.rfind(mark, searched)) >= 0), default=0
        )
        if len(self._rest) - end > _MOST:
            raise ValueError(f"an event of more than {_MOST} bytes")
        complete = bytes(self._rest[:end])
        del self._rest[:end]
        return self._renaming.events(complete)

    def rest(self) -> bytes:
        """What stands behind the last event when the stream has ended well."""
        return self._renaming.events(bytes(self._rest))
