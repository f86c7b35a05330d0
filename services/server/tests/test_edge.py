"""Which requests reach vLLM, and what of them."""

import asyncio
import re
from typing import Any

import httpx
import pytest
from edge_samples import (
    CHAT,
    COMPLETIONS,
    KEY,
    Model,
    answer,
    ask,
    call,
    chat,
    completion,
    error_of,
    get,
    http_scope,
    refused,
    send_to,
)
from server_samples import make_keys, make_probe, make_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from hone_server.current import Serving
from hone_server.edge import GATE, Edge
from hone_server.gate import Replay
from hone_server.limits import Limits
from hone_server.replay import replay

pytestmark = pytest.mark.usefixtures("serving")

RIGHT = [(b"authorization", b"Bearer second-key")]


def change(serving: Serving, **changes: object) -> None:
    serving.settings = make_settings(serving.settings.store, **({"keys": serving.settings.keys} | changes))


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
def test_a_request_for_an_answer_passes(path: str, body: Any) -> None:
    model = Model()
    assert ask(model, path, body).status_code == 200
    assert model.last.json == body


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/v1/models/faq"])
def test_a_known_route_with_a_key_passes(path: str) -> None:
    model = Model()
    assert get(model, path).status_code == 200
    assert model.last.scope["path"] == path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/version"),
        ("GET", "/load"),
        ("GET", "/server_info"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/chat/completions/batch"),
        ("POST", "/v1/chat/completions/render"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/invocations"),
        ("GET", "/ping"),
        ("POST", "/ping"),
        ("POST", "/score"),
        ("POST", "/rerank"),
        ("POST", "/pooling"),
        ("POST", "/collective_rpc"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/sleep"),
        ("POST", "/wake_up"),
        ("POST", "/update_weights"),
        ("POST", "/reset_prefix_cache"),
        ("POST", "/start_profile"),
        ("POST", "/scale_elastic_ep"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("DELETE", "/v1/models/faq"),
        ("PUT", "/v1/models/faq"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/health"),
        ("HEAD", "/v1/models"),
        ("OPTIONS", "/v1/chat/completions"),
        ("post", "/v1/chat/completions"),
    ],
)
@pytest.mark.parametrize("headers", [[], RIGHT], ids=["no key", "key"])
def test_what_is_not_on_the_list_does_not_exist(
    method: str, path: str, headers: list[tuple[bytes, bytes]]
) -> None:
    model = Model()
    sent = asyncio.run(call(Edge(model), http_scope(method, path, headers), b"{}"))
    assert sent[0]["status"] == 404
    assert b'"unknown_url"' in sent[1]["body"]
    assert not model.asked


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/v1//models",
        "/v1/models/",
        "/v1/models//faq",
        "/v1/models/../metrics",
        "/v1/models/faq/../../../metrics",
        "/v1/models/..",
        "/v1/models/.",
        "/v1/models/%2e%2e",
        "/v1/models/faq\n",
        "/v1/models/faq\x00",
        "/v1/models/faq?x",
        "/v1/models\n",
        "/V1/models",
        "/v1/models;x",
        "/./v1/models",
        "/metrics/",
        "/metrics/x",
        "/health/../metrics",
        "/v1/models/" + "a" * 129,
        "http://test/v1/models",
        "v1/models",
        "",
        "*",
    ],
)
def test_no_other_way_of_writing_a_path_leads_in(path: str) -> None:
    model = Model()
    sent = asyncio.run(call(Edge(model), http_scope("GET", path, RIGHT)))
    assert sent[0]["status"] == 404
    assert not model.asked


@pytest.mark.parametrize("name", ["faq", "ft:base:org:faq:1", "a/b", "a%2Fb", "Qwen/Qwen2.5-1.5B", "x@1+2"])
def test_an_id_of_a_model_may_hold_colons_and_slashes(name: str) -> None:
    model = Model()
    assert get(model, f"/v1/models/{name}").status_code == 200
    assert model.last.scope["path"] == f"/v1/models/{name.replace('%2F', '/')}"


def test_only_the_decoded_path_counts() -> None:
    model = Model()
    scope = http_scope("GET", "/metrics", []) | {"raw_path": b"/health", "root_path": "/metrics"}
    assert asyncio.run(call(Edge(model), scope))[0]["status"] == 401
    scope = http_scope("GET", "/v1/models", RIGHT) | {
        "raw_path": b"/x",
        "root_path": "/v1",
        "query_string": b"a",
    }
    assert asyncio.run(call(Edge(model), scope))[0]["status"] == 200
    found = model.last.scope
    assert (found["raw_path"], found["root_path"], found["query_string"]) == (b"/v1/models", "", b"")


@pytest.mark.parametrize(
    "host", ["test/health?", "test/v1/models#", "evil.example", "", "/health", "[::1]:80"]
)
def test_a_host_header_changes_nothing(host: str) -> None:
    model = Model()
    headers = [
        (b"host", host.encode()),
        (b"x-forwarded-host", host.encode()),
        (b"x-original-url", b"/health"),
    ]
    sent = asyncio.run(call(Edge(model), http_scope("GET", "/v1/models", headers)))
    assert sent[0]["status"] == 401
    assert not model.asked
    asyncio.run(call(Edge(model), http_scope("GET", "/v1/models", [*headers, *RIGHT])))
    assert b"host" not in model.last.headers


@pytest.mark.parametrize("path", ["/v1/realtime", CHAT, "/health", "/"])
def test_a_websocket_does_not_exist(path: str) -> None:
    model = Model()
    scope = {"type": "websocket", "path": path, "headers": RIGHT}
    [closed] = asyncio.run(call(Edge(model), scope))
    assert closed["type"] == "websocket.close"
    sent = asyncio.run(call(Edge(model), scope | {"extensions": {"websocket.http.response": {}}}))
    assert [message["type"] for message in sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert sent[0]["status"] == 404
    assert not model.asked


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer first-key2"},
        {"Authorization": "Bearer first-ke"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer"},
        {"Authorization": "second-key"},
        {"Authorization": "Basic second-key"},
        {"Authorization": "Bearer second:second-key"},
        {"api-key": "second-key"},
        {"Cookie": "Authorization=Bearer second-key"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/models/faq"])
def test_without_a_right_key_nothing_is_told(path: str, headers: dict[str, str]) -> None:
    model = Model()
    response = get(model, path, headers)
    refused(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"
    assert not model.asked


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_without_a_right_key_no_body_is_read(path: str) -> None:
    async def receive() -> Any:
        raise AssertionError("read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Edge(Model())(http_scope("POST", path), receive, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    "shown", ["Bearer first-key", "bearer second-key", "BEARER second-key", "Bearer  first-key "]
)
def test_every_key_is_right(shown: str) -> None:
    assert get(Model(), "/v1/models", {"Authorization": shown}).status_code == 200


def test_two_authorizations_are_none() -> None:
    scope = http_scope("GET", "/v1/models", [*RIGHT, (b"authorization", b"Bearer wrong")])
    assert asyncio.run(call(Edge(Model()), scope))[0]["status"] == 401


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_of_an_orchestrator_need_no_key(path: str) -> None:
    assert get(Model(), path, {}).status_code == 200


def test_metrics_may_be_opened(serving: Serving) -> None:
    change(serving, open_metrics=True)
    assert get(Model(), "/metrics", {}).status_code == 200
    assert get(Model(), "/v1/models", {}).status_code == 401


def test_no_key_is_needed_where_none_is_set(serving: Serving) -> None:
    change(serving, keys=())
    assert get(Model(), "/v1/models", {}).status_code == 200


def test_vllm_never_sees_a_key_nor_what_it_would_act_on() -> None:
    model = Model()
    meddling = {
        "X-data-parallel-rank": "1",
        "X-Session-ID": "s",
        "X-Vllm-Priority": "-9",
        "traceparent": "00-0-0-01",
        "endpoint-load-metrics-format": "JSON",
        "Cookie": "a=b",
        "X-Request-Id": "mine",
    }
    response = ask(model, CHAT, chat(), headers=meddling)
    assert set(model.last.headers) == {b"content-type", b"content-length", b"x-request-id"}
    assert model.last.headers[b"content-type"] == b"application/json"
    assert model.last.headers[b"content-length"] == str(len(model.last.body)).encode()
    request_id = model.last.headers[b"x-request-id"].decode()
    assert re.fullmatch(r"req-[0-9a-f]{32}", request_id)
    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere"])
def test_every_answer_has_a_request_id_of_ours(path: str) -> None:
    theirs = Model(answer=answer(200, {}, [(b"X-Request-Id", b"theirs")]))
    first, second = (get(theirs, path).headers.get_list("x-request-id") for _ in range(2))
    assert len(first) == len(second) == 1
    assert re.fullmatch(r"req-[0-9a-f]{32}", first[0])
    assert first != second


@pytest.mark.parametrize(("method", "path"), [("GET", "/ready"), ("GET", "/health"), ("POST", COMPLETIONS)])
def test_without_a_verdict_nothing_is_served(serving: Serving, method: str, path: str) -> None:
    serving.verdict = None
    response = asyncio.run(send_to(Edge(Model()), method, path, headers=KEY))
    refused(response, 503, "not_ready")
    assert int(response.headers["retry-after"]) > 0


class _Probed(Starlette):
    """Answers the gate's two requests as vLLM does."""

    def __init__(self) -> None:
        routes = [
            Route(CHAT, self._chat, methods=["POST"]),
            Route(COMPLETIONS, self._score, methods=["POST"]),
        ]
        super().__init__(routes=routes)

    async def _chat(self, request: Request) -> JSONResponse:
        assert (await request.json())["return_token_ids"] is True
        return JSONResponse({"prompt_token_ids": [1, 2, 3]})

    async def _score(self, request: Request) -> JSONResponse:
        ids = (await request.json())["prompt"]
        logprobs = [None, *({str(token): {"logprob": -0.1 * (i - 1)}} for i, token in enumerate(ids[1:], 0))]
        return JSONResponse({"choices": [{"prompt_logprobs": logprobs}]})


def test_the_gate_itself_comes_in_before_there_is_a_verdict(serving: Serving) -> None:
    serving.verdict = None
    replays = asyncio.run(replay(Edge(_Probed()), "faq", [make_probe()]))
    assert replays == [Replay([1, 2, 3], [-0.1, -0.2])]


def test_the_gate_comes_in_through_a_closed_door_and_past_every_limit(serving: Serving) -> None:
    change(serving, limits=Limits(body=1, n=0))
    serving.door.shut("closed")
    serving.stopping = True
    model = Model()
    scope = http_scope("POST", COMPLETIONS) | {GATE: True}
    sent = asyncio.run(call(Edge(model), scope, b"anything"))
    assert sent[0]["status"] == 200
    assert model.last.body == b"anything"


def test_no_header_makes_a_client_the_gate(serving: Serving) -> None:
    serving.verdict = None
    scope = http_scope("GET", "/v1/models", [(b"hone.gate", b"1"), (GATE.encode(), b"true"), *RIGHT])
    assert asyncio.run(call(Edge(Model()), scope))[0]["status"] == 503


def test_the_lifespan_passes() -> None:
    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    seen: list[str] = []
    asyncio.run(call(Edge(app), {"type": "lifespan"}))
    assert seen == ["lifespan"]


def test_while_a_door_is_shut_answers_are_refused_and_the_rest_goes_on(serving: Serving) -> None:
    serving.door.shut("another engine is needed")
    response = ask(Model(), CHAT, chat())
    assert "another engine" in refused(response, 503, "not_ready")["message"]
    assert int(response.headers["retry-after"]) > 0
    assert get(Model(), "/v1/models").status_code == 200
    assert get(Model(), "/ready").status_code == 200


@pytest.mark.parametrize("field", ["stopping", "failure"])
def test_a_server_that_ends_takes_no_new_requests(serving: Serving, field: str) -> None:
    setattr(serving, field, "the engine hung")
    refused(ask(Model(), COMPLETIONS, completion()), 503, "not_ready")


async def _held_back(serving: Serving, model: Model) -> asyncio.Task[httpx.Response]:
    """A request that waits at the closed door."""
    await serving.door.close(1)
    asked = asyncio.create_task(send_to(Edge(model), "POST", CHAT, json=chat(), headers=KEY))
    while not serving.door.waiting:
        await asyncio.sleep(0)
    return asked


def test_a_request_waits_while_the_model_is_swapped(serving: Serving) -> None:
    async def swap() -> None:
        model = Model()
        asked = await _held_back(serving, model)
        assert not model.asked
        serving.door.open()
        assert (await asked).status_code == 200

    asyncio.run(swap())


def test_a_request_that_waited_is_refused_when_the_door_is_shut_for_longer(serving: Serving) -> None:
    async def swap() -> None:
        model = Model()
        asked = await _held_back(serving, model)
        serving.door.shut("the engine is lost")
        refused(await asked, 503, "not_ready")
        assert not model.asked
        assert serving.door.inside == 0

    asyncio.run(swap())


def test_a_request_is_inside_until_its_stream_has_ended(serving: Serving) -> None:
    async def count(send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        inside.append(serving.door.inside)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0)
        inside.append(serving.door.inside)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    inside: list[int] = []
    ask(Model(answer=count), CHAT, chat())
    assert inside == [1, 1]
    assert serving.door.inside == 0


def test_no_repeats_are_refused_where_the_engine_cannot_ban_them(serving: Serving) -> None:
    serving.bans_repeats = False
    error = refused(ask(Model(), CHAT, chat(no_repeat_ngram_size=3)), 400, "unsupported_parameter")
    assert error["param"] == "no_repeat_ngram_size"
    assert ask(Model(), CHAT, chat(no_repeat_ngram_size=0)).status_code == 200


def test_a_failure_inside_is_told_in_openais_shape_and_goes_on_to_the_log() -> None:
    async def fail(_send: Any) -> None:
        raise KeyError("/secret/path")

    response = ask(Model(answer=fail), CHAT, chat())
    refused(response, 500, "server_error")
    assert "secret" not in response.text
    with pytest.raises(KeyError):
        asyncio.run(call(Edge(Model(answer=fail)), http_scope("GET", "/v1/models", RIGHT)))


def test_a_client_that_leaves_while_it_sends_is_nothing_to_answer() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    model = Model()
    asyncio.run(Edge(model)(http_scope("POST", CHAT, RIGHT), receive, send))
    assert not sent
    assert not model.asked


def test_a_key_of_a_name_shows_nothing_but_its_digest() -> None:
    assert "second-key" not in repr(make_keys("second:second-key"))


def test_an_unknown_route_is_told_shortly() -> None:
    path = "/" + "x" * 10_000
    assert len(error_of(get(Model(), path))["message"]) < 300
