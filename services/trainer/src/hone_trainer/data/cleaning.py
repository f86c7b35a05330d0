"""What is done to a record's texts, and what of it decides whether two records are the same."""

import hashlib
import json
import unicodedata
from typing import Any, NamedTuple

from hone_contract.data_spec import CleanSpec
from hone_trainer.data.formats import Draft
from hone_trainer.data.rejection import Rejected
from hone_trainer.record import Messages

DIGEST_BYTES = 16
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_WHITE = b" \t\n\r\f\v"
_LOWER = bytes(range(256)).lower()


class Candidate(NamedTuple):
    """A good record, cleaned and written. A tuple, since many go from process to process."""

    line: int
    form: str
    body: bytes
    """The record as JSON, without its place and its last brace."""
    normalised: bytes
    """Equal for records that differ only in case and white space."""
    said: bytes
    """Likewise, but whatever the system prompt."""
    text: bytes
    """What is compared for likeness: all but the system prompt, in one case and without white space."""
    signature: bytes = b""
    """Of the text, once it was signed; the text is then dropped."""

    def to_json(self, source: str) -> bytes:
        return self.body + f', "source": {_ENCODER.encode(source)}}}\n'.encode()


def clean(draft: Draft, how: CleanSpec) -> None:
    """Clean the record's texts in place. Raises Rejected for one that is then empty, and for a preference
    pair whose answers are then the same."""
    for name in ("messages", "chosen", "rejected"):
        for index, message in enumerate(getattr(draft, name) or []):
            content = message["content"] = _clean(message["content"], how)
            if not content and not (message.get("tool_calls") or message["role"] == "tool"):
                place = "text" if draft.form == "text" else f"{name}[{index}].content"
                raise Rejected("empty", f"{place} is empty ({message['role']})")
    if draft.chosen is not None and draft.chosen == draft.rejected:
        raise Rejected("same_answers", "both answers are the same, so neither is the better one")
    if draft.form == "text":
        text = draft.messages[0]["content"]
        draft.text, draft.trained = text, [[0, len(text)]]
    elif draft.text is not None and draft.trained is not None:
        [[start, _]] = draft.trained
        kept = how.model_copy(update={"trim": False})
        before, learned = _clean(draft.text[:start], kept), _clean(draft.text[start:], kept)
        draft.text, draft.trained = before + learned, [[len(before), len(before + learned)]]


def to_candidate(draft: Draft, line: int) -> Candidate:
    """The cleaned record as it will be written, and its digests."""
    values: dict[str, Any] = {"messages": draft.messages}
    for key in ("tools", "text", "trained", "chosen", "rejected"):
        if (value := getattr(draft, key)) is not None:
            values[key] = value
    body = _ENCODER.encode(values).encode()
    every = draft.messages + (draft.chosen or []) + (draft.rejected or [])
    said = [_squeezed(message["content"]) for message in every]
    has_system = every[0]["role"] == "system"
    system = b"system\n" + said[0] + b"\0" if has_system else b""
    rest = _normalised(draft, every[has_system:], said[has_system:])
    return Candidate(
        line=line,
        form=draft.form,
        body=body[:-1],
        normalised=_digest(system + rest),
        said=_digest(rest),
        text=b"\n".join(
            text for message, text in zip(every, said, strict=True) if message["role"] != "system"
        ),
    )


def _clean(text: str, how: CleanSpec) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if how.nfc:
        text = unicodedata.normalize("NFC", text)
    return text.strip() if how.trim else text if not text.isspace() else ""


def _squeezed(text: str) -> bytes:
    """In one case, and without white space."""
    if text.isascii():
        return text.encode().translate(_LOWER, _WHITE)
    return "".join(text.casefold().split()).encode()


def _normalised(draft: Draft, every: Messages, said: list[bytes]) -> bytes:
    turns = b"\0".join(
        [f"{message['role']}\n".encode() + text for message, text in zip(every, said, strict=True)]
    )
    if draft.tools is None and all(len(message) == 2 for message in every):
        return turns
    rest = [draft.tools, *[(m.get("tool_calls"), m.get("weight")) for m in every]]
    return turns + _ENCODER.encode(rest).encode()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
