"""What goes back: errors in OpenAI's shape, streams, and the tokens that are counted."""

import asyncio
import json
from typing import Any

import pytest
from edge_samples import (
    CHAT,
    COMPLETIONS,
    KEY,
    USAGE,
    USAGE_CHUNK,
    Model,
    answer,
    ask,
    call,
    chat,
    chunk,
    completion,
    error_of,
    get,
    http_scope,
    refused,
    stream,
)
from prometheus_client import REGISTRY
from server_samples import Notes

from hone_server.edge import Edge

pytestmark = pytest.mark.usefixtures("serving")


def vllms_error(message: str, status: int, kind: str = "BadRequestError", param: str | None = None) -> Any:
    return answer(status, {"error": {"message": message, "type": kind, "param": param, "code": status}})


def counted(kind: str, key: str = "second") -> float:
    return REGISTRY.get_sample_value("hone_tokens_total", {"key": key, "kind": kind}) or 0.0


# ---- errors


def test_vllms_error_has_no_number_for_a_code() -> None:
    model = Model(answer=vllms_error("temperature must be in [0, 2], got 3.", 400, param="temperature"))
    error = refused(ask(model, CHAT, chat(temperature=3)), 400, None)
    assert error["message"] == "temperature must be in [0, 2], got 3."
    assert (error["type"], error["param"]) == ("invalid_request_error", "temperature")


def test_the_place_that_pydantic_names_is_a_field() -> None:
    model = Model(answer=vllms_error("1 validation error", 400, "Bad Request", "body.messages.0.content"))
    assert error_of(ask(model, CHAT, chat()))["param"] == "messages.0.content"


def test_another_model_is_not_found() -> None:
    model = Model(answer=vllms_error("The model `x` does not exist.", 404, "NotFoundError"))
    refused(ask(model, CHAT, chat(model="x")), 404, "model_not_found")


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 512 tokens. However, you requested 600.",
        "Input length (600) exceeds model's maximum context length (512).",
        "The prompt is longer than the maximum model length of 512.",
    ],
)
def test_a_prompt_that_is_too_long_has_openais_code(message: str) -> None:
    refused(ask(Model(answer=vllms_error(message, 400)), CHAT, chat()), 400, "context_length_exceeded")


def test_an_error_that_is_in_shape_keeps_its_code() -> None:
    error = {"message": "no", "type": "invalid_request_error", "param": None, "code": "model_not_found"}
    assert (
        refused(get(Model(answer=answer(404, {"error": error})), "/v1/models/x"), 404, "model_not_found")
        == error
    )


@pytest.mark.parametrize(
    ("status", "body", "left"),
    [
        (422, {"detail": [{"loc": ["body", "x"], "msg": "Field required"}]}, 400),
        (401, {"error": "Unauthorized"}, 401),
        (404, {"detail": "Not Found"}, 404),
        (405, {"detail": "Method Not Allowed"}, 405),
        (400, b"Bad Request", 400),
        (400, b"", 400),
        (400, b"\xff", 400),
        (400, b"[" * 100_000, 400),
        (400, [], 400),
        (400, {}, 400),
        (400, {"error": None}, 400),
        (400, {"error": {"message": None, "code": {}, "param": []}}, 400),
        (501, {"error": {"message": "no chat", "code": 501}}, 400),
    ],
)
def test_an_error_of_any_shape_leaves_in_openais(status: int, body: Any, left: int) -> None:
    response = ask(Model(answer=answer(status, body)), CHAT, chat())
    assert error_of(response)["type"] == "invalid_request_error"
    assert response.status_code == left
    assert response.headers["content-length"] == str(len(response.content))


def test_a_long_message_is_cut() -> None:
    assert len(error_of(ask(Model(answer=vllms_error("x" * 10**6, 400)), CHAT, chat()))["message"]) == 2000


def test_a_failure_of_vllm_tells_the_client_nothing_and_the_log_everything(notes: Notes) -> None:
    response = ask(Model(answer=vllms_error("at 0x7f12 in /opt/x", 500, "InternalServerError")), CHAT, chat())
    error = refused(response, 500, None)
    assert error["type"] == "server_error"
    assert "0x7f12" not in response.text
    [told] = notes.named("vllm_error")
    assert "0x7f12" in told
    assert response.headers["x-request-id"] in told


def test_a_full_queue_is_a_reason_to_come_later(notes: Notes) -> None:
    response = ask(Model(answer=vllms_error("queue of 7 is full", 503)), CHAT, chat())
    refused(response, 503, "overloaded")
    assert int(response.headers["retry-after"]) > 0
    assert "queue of 7" not in response.text
    assert "queue of 7" in notes.named("vllm_error")[0]


@pytest.mark.parametrize("path", ["/ready", "/health"])
def test_a_state_is_no_error_and_told_in_its_own_words(path: str) -> None:
    response = get(Model(answer=answer(503, {"ready": False})), path)
    assert (response.status_code, response.json()) == (503, {"ready": False})


# ---- answers in one piece


def test_an_answer_passes_byte_for_byte_and_its_tokens_are_counted() -> None:
    body = {"id": "c", "choices": [{"text": 'x "usage":{"prompt_tokens":999} é'}], "usage": USAGE, "more": 1}
    before = counted("prompt"), counted("completion")
    response = ask(Model(answer=answer(200, body)), COMPLETIONS, completion())
    assert response.content == json.dumps(body, separators=(",", ":")).encode()
    assert (counted("prompt"), counted("completion")) == (before[0] + 7, before[1] + 5)


@pytest.mark.parametrize(
    "usage", [None, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": 3}]
)
def test_an_answer_may_tell_less(usage: Any) -> None:
    before = counted("completion")
    assert ask(Model(answer=answer(200, {"choices": [], "usage": usage})), CHAT, chat()).status_code == 200
    assert counted("completion") in (before, before + 1)


def test_no_tokens_are_counted_for_an_error() -> None:
    before = counted("prompt")
    ask(Model(answer=vllms_error("no", 400)), CHAT, chat())
    assert counted("prompt") == before


# ---- streams


def events_of(model: Model, **fields: Any) -> list[Any]:
    response = ask(model, CHAT, chat(stream=True, **fields))
    assert response.status_code == 200
    assert response.text.endswith("\n\n")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("together", [False, True])
def test_the_chunk_of_tokens_is_counted_and_kept_from_whoever_did_not_ask(together: bool) -> None:
    before = counted("prompt"), counted("completion")
    model = Model(answer=stream(chunk("a"), chunk("b"), USAGE_CHUNK, "[DONE]", together=together))
    assert events_of(model) == [chunk("a"), chunk("b"), "[DONE]"]
    assert (counted("prompt"), counted("completion")) == (before[0] + 7, before[1] + 5)


def test_the_chunk_of_tokens_reaches_whoever_asked() -> None:
    before = counted("completion")
    model = Model(answer=stream(chunk("a"), USAGE_CHUNK, "[DONE]"))
    assert events_of(model, stream_options={"include_usage": True}) == [chunk("a"), USAGE_CHUNK, "[DONE]"]
    assert counted("completion") == before + 5


def test_what_an_answer_says_is_never_taken_for_a_chunk_of_tokens_or_an_error() -> None:
    said = [chunk('"choices":[]'), chunk('data: {"error":{}}\n\n'), chunk('{"usage":{"prompt_tokens":9}}')]
    assert events_of(Model(answer=stream(*said, "[DONE]"))) == [*said, "[DONE]"]


def test_an_error_amid_a_stream_is_in_shape_and_tells_nothing_of_the_inside(notes: Notes) -> None:
    error = {"error": {"message": "at 0x7f12", "type": "InternalServerError", "param": None, "code": 500}}
    *_, told, done = events_of(Model(answer=stream(chunk("a"), error, "[DONE]")))
    assert done == "[DONE]"
    assert told["error"]["code"] is None
    assert told["error"]["type"] == "server_error"
    assert "0x7f12" not in json.dumps(told)
    assert "0x7f12" in notes.named("vllm_error")[0]


def test_an_error_of_the_clients_amid_a_stream_keeps_its_message() -> None:
    error = {"error": {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}}
    [told, _] = events_of(Model(answer=stream(error, "[DONE]")))
    assert told["error"] == {
        "message": "too long",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": None,
    }


def test_what_is_no_event_passes_as_it_is() -> None:
    model = Model(answer=stream(": keep-alive", chunk("a")))
    model_bytes = b'data: : keep-alive\n\ndata: {"id"'
    assert ask(model, CHAT, chat(stream=True)).content.startswith(model_bytes)
    for odd in (b'"choices":[]', b'data: {"error":', b'data: {"error":{"code":9}}', b"\xff" + b'"error":'):
        response = ask(Model(answer=_raw_stream(odd)), CHAT, chat(stream=True))
        assert response.status_code == 200


def _raw_stream(body: bytes) -> Any:
    async def send_it(send: Any) -> None:
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    return send_it


def test_a_stream_whose_client_left_is_counted_by_what_came() -> None:
    before = counted("prompt"), counted("completion")
    body = chat(stream=True)
    ask(Model(answer=stream(chunk("a"), chunk("b"), chunk("c"))), CHAT, body)
    assert counted("completion") == before[1] + 3
    assert counted("prompt") > before[0]


def test_an_answer_that_nobody_waited_for_is_counted_by_its_prompt() -> None:
    async def leave(_send: Any) -> None:
        pass

    before = counted("prompt")
    scope = http_scope("POST", COMPLETIONS, [(b"authorization", KEY["Authorization"].encode())])
    sent = asyncio.run(
        call(Edge(Model(answer=leave)), scope, json.dumps(completion(prompt="x" * 400)).encode())
    )
    assert not sent
    assert counted("prompt") >= before + 100
