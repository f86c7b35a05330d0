"""What one key may ask of models in a minute: by many clients at once, and as OpenAI's SDK sees it."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import openai
import pytest
from api_serving_app import ASK, BASE, STORED, ServingApp, serving_app
from api_upstream import StandIn, stand_in

from hone_api.errors import ApiError
from hone_api.keys import Caller, find_caller
from hone_api.metering import rates, window
from hone_api.metering.rates import Rates
from hone_api.metering.tokens import Tally, Tokens, answers_asked, most_asked, usage_wanted
from hone_api.metering.window import MINUTE, Window, shown
from hone_api.serving.model_field import find_model

CLIENTS = 50


@dataclass
class Clock:
    """Which a test turns on."""

    now: float = 1000.3

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandIn]:
    with stand_in(STORED) as here:
        yield here


@pytest.fixture(scope="module")
def served(upstream: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingApp]:
    with serving_app(tmp_path_factory.mktemp("api"), {"url": upstream.url, "base": STORED}) as here:
        yield here


@pytest.fixture
def clock(served: ServingApp) -> Clock:
    made = Clock()
    served.app.state.rates = Rates(served.settings.limits, made)
    return made


@pytest.mark.usefixtures("clock")
def test_requests_and_tokens_hold_under_many_clients(served: ServingApp) -> None:
    told = _crowd(served, served.key(requests_per_minute=30), {})
    assert told.count(200) == 30 and set(told) == {200, 429}
    wish = {"usage": {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}}
    told = _crowd(served, served.key(tokens_per_minute=2500), {"stream": True, "stand_in": wish})
    assert 0.95 * 2500 <= 50 * told.count(200) <= 1.05 * 2500


@pytest.mark.parametrize(
    ("kind", "answer"), [("requests", None), ("tokens", None), ("tokens", 40), ("tokens", 10)]
)
def test_they_hold_minute_after_minute(served: ServingApp, kind: str, answer: int | None) -> None:
    """Whether what is asked for is said, and whether it is more or less than what is used."""
    most, used, chosen = (
        {"requests": 300, "tokens": 20_000}[kind],
        {"requests": 1, "tokens": 50}[kind],
        Random(1),
    )
    caller = Caller("key_1", "proj_1", "one", frozenset(), **{f"{kind}_per_minute": most})
    clock, done = Clock(), []
    here = Rates(served.settings.limits, clock)

    def client() -> Iterator[None]:
        while True:
            with suppress(ApiError):
                admitted = here.admit(caller, 30, answer)
                for _ in range(chosen.randrange(10)):
                    yield
                admitted.settle(50, 30)
                done.append(clock.now)
            yield

    clients = [client() for _ in range(CLIENTS)]
    for _ in range(600):
        clock.now += 0.5
        for each in clients:
            next(each)
    by_minute = [used * sum(begin <= at < begin + MINUTE for at in done) for begin in range(1000, 1240, 2)]
    assert max(by_minute) <= 1.05 * most
    assert used * len(done) >= 0.95 * 5 * most


def test_in_no_minute_is_more_used_than_may_be() -> None:
    chosen, here, now, used = Random(1), Window(), 5000.0, []
    for _ in range(3000):
        now += chosen.expovariate(5)
        amount = chosen.randrange(1, 9)
        if here.used(now) + amount <= 300:
            here.add(amount, now)
            used.append((now, amount))
    for begin, _ in used:
        assert sum(amount for at, amount in used if begin <= at < begin + MINUTE) <= 300
    assert sum(amount for _, amount in used) >= 0.95 * 300 * (now - 5000) / MINUTE
    assert here.until_free(1, now) <= here.until_free(100, now) <= here.until_empty(now) <= MINUTE + 0.5
    assert here.used(now + here.until_empty(now)) == 0


@pytest.mark.usefixtures("clock")
def test_headers_are_as_openais(served: ServingApp) -> None:
    client = served.client(served.key(requests_per_minute=3, tokens_per_minute=1000))
    for left in (2, 1, 0):
        told = client.chat.completions.with_raw_response.create(model=BASE, messages=ASK, max_tokens=10)
        assert told.headers["x-ratelimit-limit-requests"] == "3"
        assert told.headers["x-ratelimit-remaining-requests"] == str(left)
        assert told.headers["x-ratelimit-reset-requests"] == "1m0.2s"
        assert told.headers["x-ratelimit-limit-tokens"] == "1000"
        assert 940 <= int(told.headers["x-ratelimit-remaining-tokens"]) < 1000
        assert told.headers["x-ratelimit-reset-tokens"] == "1m0s"
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=BASE, messages=ASK)
    error, headers = refused.value, refused.value.response.headers
    assert (error.type, error.code, error.param) == ("requests", "rate_limit_exceeded", None)
    assert "Limit 3, Used 3, Requested 1. Please try again in 1m0.2s." in error.message
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("61", "60201")
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-remaining-tokens"]) == (
        "0",
        "979",
    )


def test_the_sdk_comes_again_by_itself(served: ServingApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "MINUTE", 0.2)
    monkeypatch.setattr(window, "_SLOT", 0.01)
    served.app.state.rates = Rates(served.settings.limits)
    client = served.client(served.key(requests_per_minute=1), retries=1)
    for _ in range(3):
        assert client.chat.completions.create(model=BASE, messages=ASK).model == BASE


@pytest.mark.usefixtures("clock")
def test_what_is_never_within_the_limit_is_not_to_come_again(served: ServingApp) -> None:
    client = served.client(served.key(tokens_per_minute=100), retries=2)
    with pytest.raises(openai.RateLimitError, match="Request too large") as refused:
        client.chat.completions.create(model=BASE, messages=ASK, max_tokens=50, n=2)
    assert refused.value.type == "tokens" and refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert client.chat.completions.create(model=BASE, messages=ASK).model == BASE


@pytest.mark.usefixtures("clock")
def test_a_key_at_its_limit_costs_no_reading(served: ServingApp) -> None:
    key = served.key(requests_per_minute=1)
    served.client(key).chat.completions.create(model=BASE, messages=ASK)
    for size in (1, 2**17):
        told = httpx.post(
            f"{served.url}/v1/chat/completions",
            content=b"x" * size,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
        )
        assert (told.status_code, told.json()["error"]["type"]) == (429, "requests")


def test_large_bodies_wait_for_those_of_their_own_key_alone(served: ServingApp) -> None:
    ours, theirs, lock = served.key(), served.key("other"), asyncio.Lock()
    with served.database.reading() as session:
        caller = find_caller(session, ours)
    assert caller is not None and asyncio.run(lock.acquire())
    served.app.state.large_bodies[caller.key_id] = lock
    large: Any = {"model": BASE, "messages": ASK, "user": "x" * 2**17}
    assert served.client(theirs).chat.completions.create(**large).model == BASE
    with pytest.raises(openai.APITimeoutError):
        served.client(ours).chat.completions.create(**large, timeout=0.2)
    # The next request wakes the loop, and with it who waited.
    lock.release()
    assert served.client(ours).chat.completions.create(**large).model == BASE


@pytest.mark.usefixtures("clock")
def test_what_no_model_answered_counts_as_a_request_only(served: ServingApp) -> None:
    client = served.client(served.key(requests_per_minute=2, tokens_per_minute=100))
    with pytest.raises(openai.BadRequestError):
        wish = {"stand_in": {"status": 400, "refusal": {}}}
        client.chat.completions.create(model=BASE, messages=ASK, max_tokens=50, extra_body=wish)
    raw = client.chat.completions.with_raw_response.create(model=BASE, messages=ASK, max_tokens=50)
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    assert raw.parse().model == BASE


def test_who_leaves_early_has_used_what_came(served: ServingApp, clock: Clock, upstream: StandIn) -> None:
    key, before = served.key(tokens_per_minute=1000), upstream.abandoned
    wish = {"tokens": 500, "pace": 0.1}

    async def leave() -> None:
        async with served.asynchronous(key) as client:
            asked = {"model": BASE, "messages": ASK, "max_tokens": 500, "extra_body": {"stand_in": wish}}
            stream: Any = await client.chat.completions.create(stream=True, **asked)
            async for _ in stream:
                break
            await stream.close()
        async with asyncio.timeout(30):
            while upstream.abandoned == before:
                await asyncio.sleep(0.01)

    asyncio.run(leave())
    [counts] = served.app.state.rates._keys.values()
    assert counts.reserved == 0
    assert 1 <= counts.tokens.used(clock.now) < 500


def test_who_leaves_before_a_server_has_the_request_has_used_nothing(tmp_path: Path) -> None:
    """The server takes the connection, and then says no word of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        server = {"url": f"https://127.0.0.1:{silent.getsockname()[1]}", "base": STORED}
        with serving_app(tmp_path, server) as app:
            counts = app.app.state.rates._keys

            async def leave() -> None:
                async with app.asynchronous() as client, asyncio.timeout(30):
                    asking = asyncio.create_task(client.chat.completions.create(model=BASE, messages=ASK))
                    connection, _ = await asyncio.get_running_loop().sock_accept(silent)
                    with connection:
                        assert [each.reserved > 0 for each in counts.values()] == [True]
                        asking.cancel()
                        while any(each.reserved for each in counts.values()):
                            await asyncio.sleep(0.005)

            asyncio.run(leave())
            assert [each.tokens.used(time.monotonic()) for each in counts.values()] == [0]
            assert app.app.state.usage._take() == {}


@pytest.mark.parametrize("split", [0, 1, 7, 1000])
@pytest.mark.parametrize("asked", [None, False, True])
def test_only_who_asks_for_it_sees_a_streams_usage(
    served: ServingApp, upstream: StandIn, split: int, asked: bool | None
) -> None:
    options: dict[str, Any] = {} if asked is None else {"stream_options": {"include_usage": asked}}
    wish = {"stand_in": {"split": split}}
    for path in (served.client().chat.completions, served.client().completions):
        more: Any = {"messages": ASK} if "chat" in type(path).__module__ else {"prompt": "Count"}
        stream = path.create(model=BASE, stream=True, extra_body=wish, **more, **options)
        chunks = list(stream)
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([7] if asked else [])
        assert [bool(chunk.choices) for chunk in chunks] == [True] * 4 + [False] * bool(asked)
        assert json.loads(upstream.seen[-1].body)["stream_options"]["include_usage"] is True


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ('"stream":true', b'{"include_usage":true}'),
        ('"stream":true,"stream_options":null', b'{"include_usage":true}'),
        ('"stream_options":{"include_usage":false,"continuous_usage_stats":true,"a":1},"stream":true',
         b'{"include_usage":true,"a":1}'),
        ('"stream":true,"stream_options":{"include_usage":true}', None),
        ('"stream":true,"stream_options":{"include_usage":3}', None),
        ('"stream":true,"stream_options":[]', None),
        ('"stream":false', None),
        ('"x":{"stream":true}', None),
    ],
)  # fmt: skip
def test_a_stream_is_asked_for_its_usage(said: str, sent: bytes | None) -> None:
    field = asyncio.run(find_model(b'{"model":"a", %b, "t" :1}' % said.encode()))
    wanted = usage_wanted(field, "/v1/chat/completions")
    assert (wanted and json.loads(wanted)) == (sent and json.loads(sent))
    told = json.loads(field.renamed("b", wanted))
    assert told["model"] == "b" and told["t"] == 1
    assert sent is None or told["stream_options"] == json.loads(sent)
    assert usage_wanted(field, "/v1/responses") is None


@pytest.mark.parametrize(
    ("said", "most", "answers"),
    [
        ('"max_tokens":16', 16, 1),
        ('"max_tokens":"16","n":2.0', 16, 2),
        ('"max_tokens":30000,"max_completion_tokens":1', 30000, 1),
        ('"max_completion_tokens":1e1,"max_output_tokens":null', 10, 1),
        ('"max_tokens":1e400', 10**12, 1),
        ('"max_tokens":null', None, 1),
        ('"max_tokens":-1,"n":0', None, 1),
        ('"n":3', None, 3),
        ('"prompt":"a, [b]","max_tokens":5', 5, 1),
        ('"prompt":[1, 2, 3],"max_tokens":5', 5, 1),
        ('"prompt":[],"max_tokens":5', 5, 1),
        (r'"prompt":[ "a, \"b\", [c]" ,"", "d" ],"max_tokens":5,"n":2', 5, 6),
        ('"prompt":[[1, 2], [3,[4]] ]', None, 2),
        ('"prompt":["a","b"],"prompt":"a"', None, 1),
    ],
)
def test_the_most_that_is_asked_for(said: str, most: int | None, answers: int) -> None:
    field = asyncio.run(find_model(b'{"model":"a",%b}' % said.encode()))
    assert (most_asked(field), answers_asked(field)) == (most, answers)


def test_many_answers_are_reserved_where_their_length_is_not_said(served: ServingApp) -> None:
    caller = Caller("key_1", "proj_1", "one", frozenset(), tokens_per_minute=10_000)
    here = Rates(served.settings.limits, Clock())
    first = here.admit(caller, 10, None, 8)
    assert first.reserved == 10 + 8 * 256
    # What one key has had is known for each answer.
    first.settle(810, 800)
    assert here.admit(caller, 10, None).reserved == 10 + int(256 + 0.2 * (100 - 256))


def test_nothing_that_a_model_writes_is_taken_for_its_usage() -> None:
    tally, said = (
        Tally(5, hides=True),
        rb'data: {"choices":[{"text":"\"choices\":[] \"usage\":{\"x_tokens\":9}"}]}',
    )
    assert tally.events(said + b"\n\n") == said + b"\n\n"
    assert tally.tokens == Tokens(5, 1)
    last = b'data: {"choices": [], "usage": {"total_tokens": 3, "completion_tokens": 2, "prompt_tokens": 1}}'
    assert tally.events(said + b"\r\n\r\n" + last + b"\r\n\r\n" + b"data: [DONE]\r\n\r\n") == (
        said + b"\r\n\r\n" + b"data: [DONE]\r\n\r\n"
    )
    assert tally.tokens == Tokens(1, 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0064, "6ms"),
        (1, "1s"),
        (1.25, "1.25s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (86.4, "1m26.4s"),
    ],
)
def test_a_duration_is_shown_as_openai_does(seconds: float, text: str) -> None:
    assert shown(seconds) == text


def test_limits_of_all_keys_are_in_the_settings(upstream: StandIn, tmp_path: Path) -> None:
    limits, server = {"requests_per_minute": 1}, {"url": upstream.url, "base": STORED}
    with serving_app(tmp_path, server, limits=limits) as here:
        for own, most in ((None, 1), (3, 3), (0, 5)):
            client = here.client(here.key(requests_per_minute=own))
            for _ in range(most):
                client.chat.completions.create(model=BASE, messages=ASK)
            if own != 0:
                with pytest.raises(openai.RateLimitError):
                    client.chat.completions.create(model=BASE, messages=ASK)


def test_keys_that_are_idle_are_forgotten(monkeypatch: pytest.MonkeyPatch, served: ServingApp) -> None:
    monkeypatch.setattr(rates, "_MOST", 2)
    clock = Clock()
    here = Rates(served.settings.limits.model_copy(update={"requests_per_minute": 5}), clock)
    for name in ("a", "b"):
        here._counts(name, clock.now).requests.add(1, clock.now)
    clock.now += MINUTE + 1
    here._counts("c", clock.now)
    assert set(here._keys) == {"c"}


def _crowd(here: ServingApp, key: str, more: dict[str, Any]) -> list[int]:
    """Statuses of what fifty clients ask at once, each until it is told to come in more than a second."""
    body = {"model": BASE, "messages": ASK, **more}
    headers = {"Authorization": f"Bearer {key}"}

    async def client(asking: httpx.AsyncClient) -> list[int]:
        told = []
        while True:
            answer = await asking.post("/v1/chat/completions", json=body)
            if answer.status_code != 429 or int(answer.headers["retry-after-ms"]) > 1000:
                told.append(answer.status_code)
            else:
                await asyncio.sleep(0.02)
            if told[-1:] == [429]:
                return told

    async def all_of_them() -> list[int]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=here.url, headers=headers, limits=limits, timeout=30, trust_env=False
        ) as asking:
            told = await asyncio.gather(*(client(asking) for _ in range(CLIENTS)))
            return [*itertools.chain(*told)]

    return asyncio.run(all_of_them())
