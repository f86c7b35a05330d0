"""Which requests reach vLLM."""

import asyncio
from typing import Any

import httpx
import pytest
from server_samples import make_probe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from hone_server.current import Serving
from hone_server.edge import Edge
from hone_server.gate import Replay
from hone_server.replay import replay

KEY = {"Authorization": "Bearer second-key"}


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.url.path} {len(await request.body())}")


def _app() -> Any:
    methods = ["GET", "POST", "PUT", "DELETE"]
    return Edge(Starlette(routes=[Route("/{path:path}", _echo, methods=methods)]))


async def _send(method: str, path: str, **arguments: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **arguments)


def send(method: str, path: str, **arguments: Any) -> httpx.Response:
    return asyncio.run(_send(method, path, **arguments))


class _Model(Starlette):
    """Answers the gate's two requests as vLLM does."""

    def __init__(self) -> None:
        super().__init__(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._score, methods=["POST"]),
            ]
        )

    async def _chat(self, request: Request) -> JSONResponse:
        assert (await request.json())["return_token_ids"] is True
        return JSONResponse({"prompt_token_ids": [1, 2, 3]})

    async def _score(self, request: Request) -> JSONResponse:
        ids = (await request.json())["prompt"]
        logprobs = [None, *({str(token): {"logprob": -0.1 * (i - 1)}} for i, token in enumerate(ids[1:], 0))]
        return JSONResponse({"choices": [{"prompt_logprobs": logprobs}]})


pytestmark = pytest.mark.usefixtures("serving")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_known_route_with_a_key_passes(path: str) -> None:
    assert send("POST", path, headers=KEY, content=b"12345").text == f"{path} 5"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tokenize"),
        ("GET", "/version"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/collective_rpc"),
        ("POST", "/invocations"),
        ("GET", "/docs"),
        ("DELETE", "/v1/models/faq"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/v1/models/faq/more"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
    ],
)
def test_what_is_not_on_the_list_does_not_exist(method: str, path: str) -> None:
    answer = send(method, path, headers=KEY)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer first-key2"},
        {"Authorization": "Bearer "},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/models/faq"])
def test_without_a_right_key_nothing_is_told(path: str, headers: dict[str, str]) -> None:
    answer = send("GET", path, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_every_key_is_right(key: str) -> None:
    assert send("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_of_an_orchestrator_need_no_key(path: str) -> None:
    assert send("GET", path).status_code == 200


def test_no_key_is_needed_where_none_is_set(serving: Serving) -> None:
    object.__setattr__(serving.settings, "keys", ())
    assert send("GET", "/v1/models").status_code == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/ready"), ("POST", "/v1/completions")])
def test_without_a_verdict_nothing_is_served(serving: Serving, method: str, path: str) -> None:
    serving.verdict = None
    answer = send(method, path, headers=KEY)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "not_ready"


def test_the_gate_itself_comes_in_before_there_is_a_verdict(serving: Serving) -> None:
    serving.verdict = None
    replays = asyncio.run(replay(Edge(_Model()), "faq", [make_probe()]))
    assert replays == [Replay([1, 2, 3], [-0.1, -0.2])]


def test_a_key_without_its_scheme_is_wrong() -> None:
    assert send("GET", "/v1/models", headers={"Authorization": "second-key"}).status_code == 401


def test_a_huge_body_is_refused_before_it_is_read() -> None:
    answer = send("POST", "/v1/completions", headers=KEY | {"Content-Length": str(10**9)}, content=b"")
    assert answer.status_code == 413
