"""The server, seen through the OpenAI SDK: which models it has, and an answer as it comes.

The SDK is used in its asynchronous form, so that two answers can come at once and a Ctrl-C ends a wait
wherever it stands. Callers that wait for one thing use the ordinary methods.
"""

import json
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from hone_chat.answer import Answer
from hone_chat.errors import RetryableFailure
from hone_chat.failures import connection_lost, explain, not_openai, reason, unknown_model
from hone_chat.refusals import refused_fields
from hone_chat.sampling import Sampling
from hone_chat.server import Server
from hone_chat.terminal import note
from hone_chat.waiting import Waiter

_Value = TypeVar("_Value")
Messages = list[ChatCompletionMessageParam]


@dataclass(frozen=True)
class _Refusal:
    value: object
    why: str


class Client:
    """One server and how to talk to it."""

    def __init__(self, server: Server, waiter: Waiter) -> None:
        self.server = server
        self._waiter = waiter
        self._left_out: dict[str, object] = {}
        self._openai = openai.AsyncOpenAI(
            base_url=server.base_url,
            # The SDK insists on a key; servers without keys ignore it.
            api_key=server.key.value if server.key else "none",
            timeout=openai.Timeout(server.timeout, connect=min(server.timeout, 10.0)),
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(mounts=_AROUND_THE_PROXY),
        )

    def model_names(self) -> list[str]:
        """The models that the server lists, in its order."""
        return self._waiter.wait(self._model_names())

    def choose_model(self, named: str | None) -> str:
        """The model that was named, else the first; the server is asked in either case."""
        names = self.model_names()
        if named:
            return named
        if not names:
            raise RetryableFailure(
                f"The server at {self.server.base_url} has no model yet. "
                "Try again when it has, or name one with --model."
            )
        return names[0]

    def ask(self, model: str, messages: Messages, sampling: Sampling) -> Answer:
        """Start an answer; nothing is sent before its first piece is asked for."""
        return Answer(model, self._chunks(model, messages, sampling))

    def close(self) -> None:
        """Close the connections."""
        self._waiter.wait(self._openai.close())

    async def _model_names(self) -> list[str]:
        with self._explained():
            # Not models.list(): it trips over an answer that is no JSON.
            body = await self._openai.get("/models", cast_to=object)
        models = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(models, list):
            raise not_openai(self.server)
        return [str(model["id"]) for model in models]

    async def _chunks(
        self, model: str, messages: Messages, sampling: Sampling
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        started = finished = False
        with self._explained():
            async with await self._open(model, messages, sampling) as stream:
                async for chunk in stream:
                    started = True
                    finished = finished or any(choice.finish_reason for choice in chunk.choices or [])
                    yield chunk
        if not started:
            raise not_openai(self.server)
        # A connection that is closed early can look like the end of an answer.
        if not finished:
            raise connection_lost(self.server)

    async def _open(
        self, model: str, messages: Messages, sampling: Sampling
    ) -> openai.AsyncStream[ChatCompletionChunk]:
        refused: dict[str, _Refusal] = {}
        while True:
            extras = self._extras(sampling, refused)
            try:
                stream = await self._create(model, messages, sampling, extras)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                names = refused_fields(error, extras)
                if not names:
                    raise
                why = reason(error, self.server)
                refused |= {name: _Refusal(extras[name], why) for name in names}
            else:
                self._leave_out(refused)
                return stream

    async def _create(
        self, model: str, messages: Messages, sampling: Sampling, extras: dict[str, Any]
    ) -> openai.AsyncStream[ChatCompletionChunk]:
        try:
            return await self._openai.chat.completions.create(
                model=model,
                messages=messages,
                stream=True,
                temperature=_given(sampling.temperature),
                top_p=_given(sampling.top_p),
                max_tokens=_given(sampling.max_tokens),
                extra_body=extras or None,
            )
        except openai.NotFoundError as error:
            names = await self._model_names()
            if model in names:
                raise
            raise unknown_model(model, names, self.server) from error

    def _extras(self, sampling: Sampling, refused: Collection[str]) -> dict[str, Any]:
        """The fields that not every server knows, but for those that this one refused."""
        fields = {
            "seed": sampling.seed,
            "repetition_penalty": sampling.repetition_penalty,
            "no_repeat_ngram_size": sampling.no_repeat_ngram_size,
            "stream_options": {"include_usage": True},
        }
        return {
            name: value
            for name, value in fields.items()
            # Another value is tried again: perhaps it was the value that the server did not like.
            if value is not None and name not in refused and self._left_out.get(name) != value
        }

    def _leave_out(self, refused: Mapping[str, _Refusal]) -> None:
        # Only now is it known that the fields were what was wrong.
        for name, refusal in refused.items():
            if self._left_out.get(name) != refusal.value:
                self._left_out[name] = refusal.value
                note(
                    f"The server at {self.server.base_url} does not take {name}: {refusal.why}. "
                    "It is left out from now on."
                )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except json.JSONDecodeError as error:
            raise not_openai(self.server) from error
        except openai.APIError as error:
            raise explain(error, self.server) from error


_AROUND_THE_PROXY = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
"""A proxy cannot reach this machine's own servers, and HTTP_PROXY rarely says so."""


def _given(value: _Value | None) -> _Value | openai.Omit:
    return openai.omit if value is None else value
