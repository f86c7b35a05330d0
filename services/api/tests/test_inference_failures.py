"""What clients see when a server refuses, breaks, is full or is gone, and what it sees when they leave."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from api_serving_app import ADAPTER, ASK, BASE, STORED, TUNED, ServingApp, serving_app
from api_upstream import StandIn


@pytest.fixture(scope="module")
def client(app: ServingApp) -> openai.OpenAI:
    return app.client()


def test_a_refusal_of_the_server_is_told_with_the_clients_name(client: openai.OpenAI) -> None:
    error = {"message": f"The model '{ADAPTER}' cannot", "type": "t", "param": "p", "code": "c"}
    with pytest.raises(openai.BadRequestError) as refused:
        _ask(client, status=400, refusal={"error": error})
    assert refused.value.body == error | {"message": f"The model '{TUNED}' cannot"}


def test_a_server_without_responses_says_so_in_openais_shape(client: openai.OpenAI) -> None:
    error = {"message": "Unknown route: POST /v1/responses", "type": "invalid_request_error"}
    whole = {"error": {**error, "param": None, "code": "unknown_url"}}
    for refusal, told in ((whole, whole["error"]), ({"detail": "Not Found"}, {"message": "Not Found"})):
        wish = {"stand_in": {"status": 404, "refusal": refusal}}
        with pytest.raises(openai.NotFoundError) as refused:
            client.responses.create(model=TUNED, input="Count", extra_body=wish)
        neutral = {"type": "invalid_request_error", "param": None, "code": None}
        assert refused.value.body == neutral | told


def test_limits_of_the_server_reach_the_client(client: openai.OpenAI) -> None:
    headers = {"retry-after": "7", "x-ratelimit-limit-requests": "3", "x-internal": "no", "server": "no"}
    error = {"message": "slow down", "type": "rate", "param": None, "code": "rate_limit_exceeded"}
    with pytest.raises(openai.RateLimitError) as refused:
        _ask(client, status=429, refusal={"error": error}, headers=headers)
    told = refused.value.response.headers
    assert (told["retry-after"], told["x-ratelimit-limit-requests"]) == ("7", "3")
    assert "x-internal" not in told and told["server"] != "no"


@pytest.mark.parametrize(
    "refusal, message",
    [
        ("<html>", "The server of this model answered with status 500."),
        ({"detail": "broken"}, "broken"),
        ({"object": "error", "message": "vLLM's", "code": 500}, "vLLM's"),
        ([1], "The server of this model answered with status 500."),
    ],
)
def test_errors_of_other_shapes_are_told_in_openais(
    client: openai.OpenAI, refusal: Any, message: str
) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        _ask(client, status=500, refusal=refusal)
    assert refused.value.body == {"message": message, "type": "server_error", "param": None, "code": None}


@pytest.mark.parametrize("status", [401, 403, 307])
def test_a_server_that_does_not_take_our_key_is_our_mistake(
    app: ServingApp, client: openai.OpenAI, status: int
) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        _ask(client, status=status, refusal={"error": {"message": "Incorrect API key: of-the-server"}})
    assert "of-the-server" not in str(refused.value)
    assert refused.value.code == "server_misconfigured"
    assert "server_misconfigured" in app.log.read_text()


def test_a_server_that_dies_in_a_stream_is_told_as_an_error(app: ServingApp, client: openai.OpenAI) -> None:
    wish = {"stand_in": {"dies_after": 2}}
    pieces = []
    with (
        pytest.raises(openai.APIError, match="went away before its answer was complete"),
        client.chat.completions.create(model=TUNED, messages=ASK, stream=True, extra_body=wish) as stream,
    ):
        pieces += [chunk.choices[0].delta.content for chunk in stream]
    assert "stream_broke" in app.log.read_text()


def test_responses_tell_a_broken_stream_by_an_event_of_theirs(client: openai.OpenAI) -> None:
    wish = {"stand_in": {"dies_after": 2}}
    with client.responses.create(model=TUNED, input="Count", stream=True, extra_body=wish) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["response.created", "response.output_text.delta", "error"]


def test_a_server_that_dies_before_its_answer_can_be_asked_again(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        _ask(client, dies_after=0)
    assert refused.value.code == "server_unreachable"
    assert refused.value.response.headers["retry-after"] == "2"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_ends_its_request_at_the_server(
    app: ServingApp, upstream: StandIn, streamed: bool
) -> None:
    before = upstream.abandoned

    async def leave() -> None:
        async with app.asynchronous() as client:
            wish = {"stand_in": {"first": 0 if streamed else 30, "pace": 30}}
            asking = client.chat.completions.create(
                model=TUNED, messages=ASK, stream=streamed, extra_body=wish
            )
            if streamed:
                stream: Any = await asking
                await anext(aiter(stream))
                await stream.close()
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asking, 0.3)

    asyncio.run(leave())
    _until(lambda: upstream.abandoned == before + 1 and upstream.inside == 0)


def test_more_requests_than_a_server_is_to_have_are_told_to_come_again(
    upstream: StandIn, tmp_path: Path
) -> None:
    server = {"url": upstream.url, "base": STORED}
    with serving_app(tmp_path, server, limits={"requests": 2}) as app:

        async def crowd() -> list[Any]:
            async with app.asynchronous() as client:
                wish = {"stand_in": {"first": 0.5}}
                asking = [
                    client.chat.completions.create(model=BASE, messages=ASK, extra_body=wish)
                    for _ in range(5)
                ]
                return await asyncio.gather(*asking, return_exceptions=True)

        refused = [each for each in asyncio.run(crowd()) if isinstance(each, openai.InternalServerError)]
        assert len(refused) == 3
        assert {(each.code, each.response.headers["retry-after"]) for each in refused} == {
            ("overloaded", "2")
        }
        assert _ask(app.client(), BASE).model == BASE


def test_a_server_that_is_down_can_be_asked_again_and_another_one_is_taken(
    upstream: StandIn, tmp_path: Path
) -> None:
    down = {"url": "http://127.0.0.1:9", "base": STORED}
    with serving_app(tmp_path / "one", down) as app, pytest.raises(openai.InternalServerError) as refused:
        _ask(app.client(), BASE)
    assert refused.value.code == "server_unreachable"
    assert refused.value.response.headers["retry-after"] == "2"
    with serving_app(tmp_path / "two", down, {"url": upstream.url, "base": STORED}) as app:
        client = app.client()
        assert {_ask(client, BASE).model for _ in range(3)} == {BASE}


def _ask(client: openai.OpenAI, name: str = TUNED, **wish: Any) -> Any:
    return client.chat.completions.create(model=name, messages=ASK, extra_body={"stand_in": wish})


def _until(true: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
