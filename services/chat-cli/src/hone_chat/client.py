"""The server, seen through the OpenAI SDK: which models it has, and an answer as it comes."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from hone_chat.errors import RetryableFailure
from hone_chat.failures import connection_lost, explain, not_openai, unknown_model
from hone_chat.settings import Settings

_Value = TypeVar("_Value")


class Answer:
    """An answer that is coming in: iterate over its pieces; `text` is what came so far."""

    def __init__(self, chunks: Generator[ChatCompletionChunk, None, None]) -> None:
        self._chunks = chunks
        self.text = ""
        self.finish_reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            for choice in chunk.choices or []:
                self.finish_reason = choice.finish_reason or self.finish_reason
                # A surrogate without its pair can be neither printed nor sent back.
                piece = (choice.delta.content or "").encode("utf-8", "replace").decode("utf-8")
                self.text += piece
                yield piece

    def close(self) -> None:
        """Hang up, so that the server stops generating; harmless at the end."""
        self._chunks.close()


class Client:
    """One server and how to talk to it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._openai = openai.OpenAI(
            base_url=settings.base_url,
            # The SDK insists on a key; servers without keys ignore it.
            api_key=settings.key.value if settings.key else "none",
            timeout=openai.Timeout(settings.timeout, connect=min(settings.timeout, 10.0)),
            max_retries=0,
            http_client=openai.DefaultHttpxClient(mounts=_AROUND_THE_PROXY),
        )

    def model_names(self) -> list[str]:
        """The models that the server lists, in its order."""
        with self._explained():
            # Not models.list(): it trips over an answer that is no JSON.
            body = self._openai.get("/models", cast_to=object)
        models = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(models, list):
            raise not_openai(self._settings)
        return [str(model["id"]) for model in models]

    def choose_model(self) -> str:
        """The model that was named, else the first; the server is asked in either case."""
        names = self.model_names()
        if self._settings.model:
            return self._settings.model
        if not names:
            raise RetryableFailure(
                f"The server at {self._settings.base_url} has no model yet. "
                "Try again when it has, or name one with --model."
            )
        return names[0]

    def ask(self, model: str, messages: list[ChatCompletionMessageParam]) -> Answer:
        """Start an answer; nothing is sent before it is iterated over."""
        return Answer(self._chunks(model, messages))

    def _chunks(
        self, model: str, messages: list[ChatCompletionMessageParam]
    ) -> Generator[ChatCompletionChunk, None, None]:
        started = finished = False
        with self._explained(), self._open(model, messages) as stream:
            for chunk in stream:
                started = True
                finished = finished or any(choice.finish_reason for choice in chunk.choices or [])
                yield chunk
        if not started:
            raise not_openai(self._settings)
        # A connection that is closed early can look like the end of an answer.
        if not finished:
            raise connection_lost(self._settings)

    def _open(
        self, model: str, messages: list[ChatCompletionMessageParam]
    ) -> openai.Stream[ChatCompletionChunk]:
        sampling = self._settings.sampling
        penalty = sampling.repetition_penalty
        try:
            return self._openai.chat.completions.create(
                model=model,
                messages=messages,
                stream=True,
                temperature=_given(sampling.temperature),
                top_p=_given(sampling.top_p),
                max_tokens=_given(sampling.max_tokens),
                seed=_given(sampling.seed),
                extra_body=None if penalty is None else {"repetition_penalty": penalty},
            )
        except openai.NotFoundError as error:
            names = self.model_names()
            if model in names:
                raise
            raise unknown_model(model, names, self._settings) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except json.JSONDecodeError as error:
            raise not_openai(self._settings) from error
        except openai.APIError as error:
            raise explain(error, self._settings) from error


_AROUND_THE_PROXY = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
"""A proxy cannot reach this machine's own servers, and HTTP_PROXY rarely says so."""


def _given(value: _Value | None) -> _Value | openai.Omit:
    return openai.omit if value is None else value
