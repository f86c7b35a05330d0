"""How often, and for how many tokens, one key may ask."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from edge_samples import CHAT, Model, answer, chat, get, refused, send_to
from edge_samples import ask as ask_once
from server_samples import make_settings

from hone_server.current import Serving
from hone_server.edge import Edge
from hone_server.limits import RateLimits

FIRST = {"Authorization": "Bearer first-key"}
SECOND = {"Authorization": "Bearer second-key"}


@pytest.fixture
def limited(serving: Serving, request: pytest.FixtureRequest) -> Any:
    """An edge with the rates that the test names."""
    settings = serving.settings
    serving.settings = make_settings(settings.store, keys=settings.keys, rates=request.param)
    return Edge(Model(answer=answer(200, {"usage": {"prompt_tokens": 60, "completion_tokens": 50}})))


def ask(edge: Any, times: int, key: dict[str, str] = SECOND) -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        return [await send_to(edge, "POST", CHAT, json=chat(), headers=key) for _ in range(times)]

    return asyncio.run(send())


@pytest.mark.parametrize("limited", [RateLimits(requests="3/hour")], indirect=True)
def test_more_requests_than_the_rate_are_told_to_come_later(limited: Any) -> None:
    *let_in, refused_one = ask(limited, 4)
    assert [each.status_code for each in let_in] == [200, 200, 200]
    error = refused(refused_one, 429, "rate_limit_exceeded")
    assert error["type"] == "requests"
    assert 1 <= int(refused_one.headers["retry-after"]) <= 7200
    assert ask(limited, 1, FIRST)[0].status_code == 200


@pytest.mark.parametrize("limited", [RateLimits(tokens="200/hour")], indirect=True)
def test_more_tokens_than_the_rate_are_told_to_come_later(limited: Any) -> None:
    # 110 tokens each: the second begins below the limit, and ends above it.
    first, second, third = ask(limited, 3)
    assert (first.status_code, second.status_code) == (200, 200)
    assert refused(third, 429, "rate_limit_exceeded")["type"] == "tokens"
    assert 1 <= int(third.headers["retry-after"]) <= 3600
    assert ask(limited, 1, FIRST)[0].status_code == 200


@pytest.mark.parametrize(
    "limited", [RateLimits(requests="1/minute"), RateLimits(tokens="1/minute")], indirect=True
)
def test_a_rate_is_over_after_its_time(limited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each.status_code for each in ask(limited, 2)] == [200, 429]
    later = time.time() + 121
    monkeypatch.setattr(time, "time", lambda: later)
    assert [each.status_code for each in ask(limited, 2)] == [200, 429]


@pytest.mark.parametrize("limited", [RateLimits(requests="1/day")], indirect=True)
def test_only_requests_for_answers_are_counted(limited: Any) -> None:
    async def send() -> list[int]:
        return [(await send_to(limited, "GET", "/v1/models", headers=SECOND)).status_code for _ in range(5)]

    assert asyncio.run(send()) == [200] * 5
    assert ask(limited, 1)[0].status_code == 200


@pytest.mark.usefixtures("serving")
def test_there_is_no_rate_unless_one_is_set() -> None:
    assert [ask_once(Model(), CHAT, chat()).status_code for _ in range(30)] == [200] * 30
    assert get(Model(), "/v1/models").status_code == 200
