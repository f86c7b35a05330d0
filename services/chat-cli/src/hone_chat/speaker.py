"""Who answers: a model on a server."""

from collections.abc import Sequence
from dataclasses import dataclass

from hone_chat.answer import Answer
from hone_chat.client import Client, Messages
from hone_chat.sampling import Sampling


@dataclass(frozen=True)
class Speaker:
    """One model on one server."""

    client: Client
    model: str

    def ask(self, messages: Messages, sampling: Sampling) -> Answer:
        """Start an answer; nothing is sent before its first piece is asked for."""
        return self.client.ask(self.model, messages, sampling)

    @property
    def address(self) -> str:
        """The model with its server."""
        return f"{self.model} at {self.client.server.base_url}"


def titles(speakers: Sequence[Speaker]) -> list[str]:
    """What tells the speakers apart: their models' names, where these differ."""
    names = [speaker.model for speaker in speakers]
    return names if len(set(names)) == len(names) else [speaker.address for speaker in speakers]
