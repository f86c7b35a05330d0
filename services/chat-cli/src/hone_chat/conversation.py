"""What has been said so far, and what is sent with the next question."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from openai.types.chat import ChatCompletionMessageParam

from hone_chat.errors import BadInput


@dataclass
class Conversation:
    """The model talked to, the system prompt, and the turns that were answered."""

    model: str
    system: str | None = None
    turns: list[tuple[str, str]] = field(default_factory=list)

    def messages(self) -> list[ChatCompletionMessageParam]:
        """Everything said so far, as the server wants it."""
        messages: list[ChatCompletionMessageParam] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for question, answer in self.turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return messages

    def messages_for(self, question: str) -> list[ChatCompletionMessageParam]:
        """Everything said so far, followed by a new question."""
        return [*self.messages(), {"role": "user", "content": question}]

    def add(self, question: str, answer: str) -> None:
        """Remember a turn."""
        self.turns.append((question, answer))

    def save(self, file: Path) -> None:
        """Write the conversation as one line of chat JSONL; an existing file is not touched."""
        line = json.dumps({"messages": self.messages()}, ensure_ascii=False)
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(f"{line}\n")
        except FileExistsError as error:
            raise BadInput(f"{file} exists and is left as it is. Name another file.") from error
        except OSError as error:
            reason = error.strerror
            raise BadInput(f"{file} cannot be written: {reason}. Name another file.") from error
