"""What has been said so far, and what is sent with the next question."""

from dataclasses import dataclass, field

from openai.types.chat import ChatCompletionMessageParam

from hone_chat.errors import BadInput


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str
    model: str | None = None
    """Who answered. None: the turn was read from a file that does not say."""


@dataclass
class Conversation:
    """The system prompt, and the turns that were answered."""

    system: str | None = None
    """What every question is preceded by. None: nothing."""

    turns: list[Turn] = field(default_factory=list)

    unanswered: str | None = None
    """The last question, if it got no answer. None: it got one, or there is none."""

    def messages(self) -> list[ChatCompletionMessageParam]:
        """Everything said so far, as the server wants it."""
        messages: list[ChatCompletionMessageParam] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def messages_for(self, question: str) -> list[ChatCompletionMessageParam]:
        """Everything said so far, followed by a new question."""
        return [*self.messages(), {"role": "user", "content": question}]

    def add(self, turn: Turn) -> None:
        """Remember a turn."""
        self.turns.append(turn)
        self.unanswered = None

    def forget(self) -> None:
        """Drop every turn; the system prompt stays."""
        self.turns.clear()
        self.unanswered = None

    def drop_last(self) -> Turn:
        """Drop the last turn that was answered; the turn."""
        if not self.turns:
            raise BadInput("Nothing was said yet.")
        self.unanswered = None
        return self.turns.pop()

    def continue_from(self, other: "Conversation") -> None:
        """Take the place of another conversation."""
        self.system, self.turns, self.unanswered = other.system, list(other.turns), other.unanswered
