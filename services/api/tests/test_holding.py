"""Requests for a server that is not there: they wait, in order and not too many of them, and none is lost."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import openai
import pytest
from api_serving_app import ASK, BASE, STORED, ServingApp, serving_app
from api_upstream import stand_in
from prometheus_client import REGISTRY

from hone_api import serve
from hone_api.serving import holding
from hone_api.settings import Upstream


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_EVERY", 0.05)


@contextmanager
def cold(folder: Path, seconds: float = 20, **limits: int) -> Iterator[tuple[ServingApp, int]]:
    """An api, and the port at which its server may come."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    server = {"url": f"http://127.0.0.1:{port}", "base": STORED, "hold_seconds": seconds}
    with serving_app(folder, server, limits=limits) as here:
        assert held(port) == 0
        yield here, port


def test_all_that_wait_are_answered_in_order_after_a_cold_start(tmp_path: Path) -> None:
    with cold(tmp_path, requests=3) as (app, port), asking(app) as ask:
        waiting = [ask(user=str(number), first=0.02) for number in in_turn(port, 9)]
        with stand_in(STORED, port=port) as server:
            assert {each.result().model for each in waiting} == {BASE}
            # Who comes while others have their turn comes behind them, and afterwards there is no wait.
            assert ask().result().model == BASE and held(port) == 0
            asked = [each.body for each in server.seen if each.path == "/v1/chat/completions"]
            users = [body.partition(b'"user":"')[2][:1] for body in asked]
            # Three go at once, and the next as soon as one of them has ended.
            assert [int(user) // 3 for user in users[:9]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
            assert 1 < server.busiest <= 3 + 1


def test_a_stream_waits_as_well_and_who_leaves_frees_the_place(tmp_path: Path) -> None:
    with cold(tmp_path, held=2) as (app, port), asking(app) as ask:
        stream = app.client().chat.completions.create

        def streamed() -> str:
            with stream(model=BASE, messages=ASK, stream=True) as chunks:
                return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

        with ThreadPoolExecutor() as pool:
            first = pool.submit(streamed)
            until(lambda: held(port) == 1)
            leaver = ask(timeout=0.4)
            until(lambda: held(port) == 2)
            with pytest.raises(openai.InternalServerError, match="As many requests wait") as refused:
                ask().result()
            assert (refused.value.code, refused.value.response.headers["retry-after"]) == ("overloaded", "2")
            with pytest.raises(openai.APITimeoutError):
                leaver.result()
            until(lambda: held(port) == 1)
            third = ask()
            until(lambda: held(port) == 2)
            with stand_in(STORED, port=port):
                assert first.result() == "One two three four"
                assert third.result().model == BASE
        assert [each.reserved for each in app.app.state.rates._keys.values()] == [0, 0]


def test_no_more_bytes_wait_than_may(tmp_path: Path) -> None:
    with cold(tmp_path, held_bytes=2500) as (app, port), asking(app) as ask:
        leaver = ask(user="x" * 1500, timeout=0.4)
        until(lambda: held(port) == 1)
        with pytest.raises(openai.InternalServerError, match="As many bytes") as refused:
            ask(user="x" * 1500).result()
        assert (refused.value.code, refused.value.response.headers["retry-after"]) == ("overloaded", "2")
        with pytest.raises(openai.APITimeoutError):
            leaver.result()
        until(lambda: held(port) == 0)
        last = ask(user="x" * 1500)
        until(lambda: held(port) == 1)
        with stand_in(STORED, port=port):
            assert last.result().model == BASE
        assert app.app.state.services.upstreams._room._taken == 0


def test_a_server_that_does_not_come_in_time_is_told(tmp_path: Path) -> None:
    with cold(tmp_path, seconds=0.2) as (app, port), asking(app) as ask:
        with pytest.raises(openai.InternalServerError) as refused:
            ask().result()
        assert refused.value.code == "server_unreachable"
        assert refused.value.response.headers["retry-after"] == "2"
        assert held(port) == 0


def test_what_answers_while_it_loads_is_not_there_yet(tmp_path: Path) -> None:
    with cold(tmp_path) as (app, port), stand_in(STORED, port=port) as server, asking(app) as ask:
        server.asleep = True
        waiting = [ask() for _ in in_turn(port, 3)]
        server.asleep = False
        assert {each.result().model for each in waiting} == {BASE}
        # One that is there, and too busy, says so itself.
        with pytest.raises(openai.InternalServerError, match="too busy"):
            ask(status=503, refusal={"error": {"message": "too busy"}}).result()


def test_a_server_that_goes_again_is_waited_for_again(tmp_path: Path) -> None:
    with cold(tmp_path) as (app, port), asking(app) as ask:
        for _ in range(2):
            waiting = [ask() for _ in in_turn(port, 2)]
            with stand_in(STORED, port=port):
                assert {each.result().model for each in waiting} == {BASE}


def test_servers_that_are_found_meanwhile_answer_who_waits(tmp_path: Path) -> None:
    with cold(tmp_path) as (app, port), asking(app) as ask, stand_in(STORED) as here:
        found = Upstream(url=here.url, base="demo:tiny", hold_seconds=20)
        first = ask()
        until(lambda: held(port) == 1)
        # One that is not there either: who comes now waits in the same line.
        app.settings.find([Upstream(url="http://127.0.0.1:9", base=STORED)])
        app.app.state.names.forget(BASE)
        second = ask()
        until(lambda: held(port) == 2)
        app.settings.find([found])
        assert first.result().model == second.result().model == BASE
        assert held(here.port) == 0
        app.settings.find([])
        app.app.state.names.forget(BASE)
        third = ask(timeout=0.4)
        until(lambda: held(port) == 1)
        assert [each.url for each in app.app.state.services.upstreams._links] == [f"http://127.0.0.1:{port}"]
        assert REGISTRY.get_sample_value("hone_api_server_requests", {"server": here.url}) is None
        assert held(here.port) is None
        with pytest.raises(openai.APITimeoutError):
            third.result()


@pytest.mark.parametrize("comes", [True, False])
def test_an_api_that_ends_loses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: bool) -> None:
    monkeypatch.setattr(serve, "_DRAIN_SECONDS", 20 if comes else 0.4)
    with cold(tmp_path) as (app, port), ending(app) as (url, end), ThreadPoolExecutor() as pool:
        headers, body = {"Authorization": f"Bearer {app.key()}"}, {"model": BASE, "messages": ASK}
        asked = pool.submit(
            httpx.post, f"{url}/v1/chat/completions", json=body, headers=headers, trust_env=False, timeout=20
        )
        until(lambda: held(port) == 1)
        end()
        if comes:
            with stand_in(STORED, port=port):
                assert asked.result().status_code == 200
        else:
            told = asked.result()
            assert (told.status_code, told.headers["retry-after"]) == (503, "2")
            assert told.json()["error"]["code"] == "server_unreachable"


@contextmanager
def ending(app: ServingApp) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server as `hone-api serve` has it, and what ends it."""
    services = app.app.state.services
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = serve._Server(serve._uvicorn(serve.make_app(services)))
        server.upstreams = services.upstreams
        # Signals are for a main thread.
        thread = Thread(target=lambda: asyncio.run(server._serve([door])))
        thread.start()
        until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}", lambda: setattr(server, "should_exit", True)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def asking(app: ServingApp) -> Iterator[Callable[..., "Future[Any]"]]:
    client = app.client()

    def ask(user: str = "x", timeout: float = 30, **wish: Any) -> Any:
        return client.chat.completions.create(
            model=BASE, messages=ASK, user=user, timeout=timeout, extra_body={"stand_in": wish}
        )

    with ThreadPoolExecutor(20) as pool:
        yield lambda **asked: pool.submit(ask, **asked)


def in_turn(port: int, count: int) -> Iterator[int]:
    """One number after the other, the next when the one before it waits."""
    for number in range(count):
        yield number
        until(lambda number=number: held(port) == number + 1)  # type: ignore[misc]


def held(port: int) -> float | None:
    return REGISTRY.get_sample_value("hone_api_held_requests", {"server": f"http://127.0.0.1:{port}"})


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
