"""A talk: who takes part in it, what was said, and how a question is put and answered."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from hone_chat.answer import Answer
from hone_chat.client import Client
from hone_chat.comparison import show_answers
from hone_chat.conversation import Conversation, Turn
from hone_chat.errors import BadInput, ChatError
from hone_chat.report import failures, tell
from hone_chat.sampling import Sampling
from hone_chat.settings import Settings
from hone_chat.speaker import Speaker, titles
from hone_chat.terminal import Display, note
from hone_chat.waiting import Waiter


@dataclass
class Talk:
    """One conversation with one model, and at times with a second one beside it."""

    conversation: Conversation
    speaker: Speaker
    second: Speaker | None
    """Who answers beside the speaker. None: nobody."""

    second_client: Client
    """Where a second speaker is looked for; often the speaker's own server."""

    sampling: Sampling
    display: Display
    waiter: Waiter

    @property
    def speakers(self) -> list[Speaker]:
        """All who answer; the first one's answers make the conversation."""
        return [self.speaker] if self.second is None else [self.speaker, self.second]

    def start(self, question: str) -> list[Answer]:
        """The answers to come; nothing is sent yet."""
        messages = self.conversation.messages_for(question)
        return [speaker.ask(messages, self.sampling) for speaker in self.speakers]

    def show(self, answers: list[Answer]) -> None:
        """Draw answers while they come."""
        show_answers(answers, titles(self.speakers), self.display, self.waiter)

    def tell(self, answers: list[Answer], *, pace: bool) -> list[ChatError]:
        """Note beside the answers how they ended; what went wrong is left to the caller."""
        before = [f"{title}: " for title in titles(self.speakers)] if len(answers) > 1 else [""]
        for answer, start in zip(answers, before, strict=True):
            tell(answer, start, pace=pace)
        return failures(answers, before)

    def ask(self, question: str) -> None:
        """Put a question, draw the answer, and keep the turn if there is one."""
        self.conversation.unanswered = question
        answers = self.start(question)
        kept = answers[0]
        try:
            self.show(answers)
        except KeyboardInterrupt:
            note("Stopped. What was said so far is kept." if kept.text else "Stopped.")
        # A turn without an answer is dropped: most chat templates want turns to alternate.
        if kept.text and not kept.failure:
            self.conversation.add(Turn(question, kept.text, kept.model))
        for failure in self.tell(answers, pace=True):
            note(f"error: {failure}")

    def retry(self) -> None:
        """Ask the last question again; its old answer goes once there is a new one."""
        conversation = self.conversation
        if conversation.unanswered is not None:
            self.ask(conversation.unanswered)
            return
        if not conversation.turns:
            raise BadInput("Nothing was asked yet. Ask something, then /retry.")
        before = list(conversation.turns)
        self.ask(conversation.turns.pop().question)
        if conversation.unanswered is not None:
            conversation.turns = before
            note("The answer of before stays.")


@contextmanager
def opened(settings: Settings, display: Display, *, greets: bool) -> Iterator[Talk]:
    """A talk, with its connections open; `greets`: the server is asked even if a model is named."""
    with Waiter() as waiter, ExitStack() as stack:
        first = second = stack.enter_context(closing(Client(settings.server, waiter)))
        if settings.second_server:
            second = stack.enter_context(closing(Client(settings.second_server, waiter)))
        with waiter.interruptible():
            speakers = _speakers(settings, first, second, greets)
        yield Talk(
            conversation=Conversation(settings.system),
            speaker=speakers[0],
            second=speakers[1],
            second_client=second,
            sampling=settings.sampling,
            display=display,
            waiter=waiter,
        )


def _speakers(
    settings: Settings, first: Client, second: Client, greets: bool
) -> tuple[Speaker, Speaker | None]:
    named = settings.model
    speaker = Speaker(first, named if named and not greets else first.choose_model(named))
    if not settings.compares:
        return speaker, None
    return speaker, Speaker(second, settings.second_model or second.choose_model(None))
