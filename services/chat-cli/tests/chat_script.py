"""What the fake server is told to do, and what it was asked."""

import threading
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass
class Script:
    """What the server does next, and what it was asked."""

    models: list[str] = field(default_factory=lambda: ["hone-faq"])
    key: str | None = None
    pieces: list[str] = field(default_factory=lambda: ["Par", "is."])
    finish_reason: str | None = "stop"
    failure: tuple[int, Any] | None = None
    stream_failure: Body | None = None
    answers: dict[str, list[str]] = field(default_factory=dict)
    """Pieces by model, where a model answers otherwise than by `pieces`."""
    usage: Body | None = None
    """What is counted for who asks for it; None: nothing, to nobody."""
    refused: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """What answers a question that has this field."""
    together: threading.Barrier | None = None
    """Where requests wait for each other before they are answered."""
    breaks_off: bool = False
    never_ends: bool = False
    asked: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    def said(self) -> list[str]:
        """The messages of the last request, each with its role."""
        messages = self.asked[-1]["messages"]
        return [f"{message['role']}: {message['content']}" for message in messages]


def error_body(message: str, code: int) -> Body:
    """An error as vLLM words it."""
    return {"error": {"message": message, "type": "Error", "param": None, "code": code}}
