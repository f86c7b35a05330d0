"""An answer that is coming in."""

from collections.abc import AsyncGenerator, Generator

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk

from hone_chat.errors import ChatError
from hone_chat.pace import Pace
from hone_chat.waiting import Waiter


class Answer:
    """What came so far, and how it ended. Nothing is sent before the first piece is asked for."""

    def __init__(self, model: str, chunks: AsyncGenerator[ChatCompletionChunk, None]) -> None:
        self.model = model
        self.text = ""
        self.pace = Pace()
        self.finish_reason: str | None = None
        self.usage: dict[str, object] | None = None
        self.failure: ChatError | None = None
        self._chunks = chunks

    @property
    def tokens(self) -> int | None:
        """The server's count of the answer's tokens; None: it sent none."""
        count = (self.usage or {}).get("completion_tokens")
        return count if isinstance(count, int) else None

    async def next_piece(self) -> str | None:
        """What comes next; None: that was all, and `failure` tells whether it is complete."""
        self.pace.start()
        try:
            async for chunk in self._chunks:
                if piece := self._take(chunk):
                    return piece
        except ChatError as error:
            self.failure = error
        self.pace.end()
        return None

    async def aclose(self) -> None:
        """Hang up, so that the server stops generating; harmless at the end."""
        await self._chunks.aclose()

    def _take(self, chunk: ChatCompletionChunk) -> str:
        if isinstance(chunk.usage, CompletionUsage):
            self.usage = chunk.usage.to_dict() or None
        piece = ""
        for choice in chunk.choices or []:
            self.finish_reason = choice.finish_reason or self.finish_reason
            # A surrogate without its pair can be neither printed nor sent back.
            piece += (choice.delta.content or "").encode("utf-8", "replace").decode("utf-8")
        if piece:
            self.text += piece
            self.pace.count()
        return piece


def pieces(answer: Answer, waiter: Waiter) -> Generator[str, None, None]:
    """The answer as an ordinary generator, for a caller that waits; closing it hangs up."""
    try:
        while (piece := waiter.wait(answer.next_piece())) is not None:
            yield piece
    finally:
        waiter.wait(answer.aclose())
