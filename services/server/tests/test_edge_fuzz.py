"""Whatever is sent: nothing off the list reaches vLLM, and nothing makes the edge fail."""

import asyncio
import json
from typing import Any

import pytest
from edge_samples import ANSWERED, CHAT, COMPLETIONS, Model, call, http_scope
from fuzz_bodies import bodies, headers, methods, paths, raw_bodies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hone_server.edge import Edge
from hone_server.edge.fields import CHAT as CHAT_FIELDS
from hone_server.edge.fields import COMPLETIONS as COMPLETION_FIELDS
from hone_server.edge.routes import find_route

pytestmark = pytest.mark.usefixtures("serving")
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RIGHT = [(b"authorization", b"Bearer second-key")]
FIELDS = {CHAT: CHAT_FIELDS, COMPLETIONS: COMPLETION_FIELDS}


def send(method: str, path: str, sent: list[tuple[bytes, bytes]], body: bytes = b"") -> tuple[int, Model]:
    """The status, and what reached vLLM. Asserts that an error is in OpenAI's shape."""
    model = Model(answer=ANSWERED)
    start, *rest = asyncio.run(call(Edge(model), http_scope(method, path, sent), body))
    assert start["status"] < 500
    if start["status"] >= 400:
        error = json.loads(b"".join(each["body"] for each in rest))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert not model.asked
    return start["status"], model


@many
@given(method=methods, path=paths, sent=headers)
def test_nothing_off_the_list_reaches_vllm(method: str, path: str, sent: list[tuple[bytes, bytes]]) -> None:
    for key in ([], RIGHT):
        status, model = send(method, path, [*sent, *key])
        route = find_route(method, path)
        if route is None:
            assert status == 404
        if not key and model.asked:
            assert route is not None
            assert route.open


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@many
@given(data=st.data())
def test_no_body_makes_the_edge_fail_and_none_brings_more_than_it_may(path: str, data: Any) -> None:
    body = data.draw(bodies(path))
    _, model = send("POST", path, RIGHT, json.dumps(body).encode())
    for asked in model.asked:
        check_harmless(path, asked.json)


@many
@given(body=st.one_of(raw_bodies(), st.binary(max_size=60)), path=st.sampled_from([CHAT, COMPLETIONS]))
def test_no_bytes_make_the_edge_fail(body: bytes, path: str) -> None:
    _, model = send("POST", path, RIGHT, body)
    for asked in model.asked:
        check_harmless(path, asked.json)


def check_harmless(path: str, body: dict[str, Any]) -> None:
    """What the limits promise of a body that was let in."""
    assert body.keys() <= FIELDS[path].checked.keys()
    assert (body.get("n") or 1) <= 8
    assert (body.get("prompt_logprobs") or 0) <= 20
    assert body.get("vllm_xargs", {}).keys() <= {"no_repeat_ngram_size"}
    assert (body.get("vllm_xargs") or {"no_repeat_ngram_size": 1})["no_repeat_ngram_size"] in range(1, 65)
    assert "no_repeat_ngram_size" not in body
    assert not body.get("stream") or body["stream_options"]["include_usage"]
    assert "chat_template" not in (body.get("chat_template_kwargs") or {})
    for message in body.get("messages", []):
        for part in message.get("content") or [] if isinstance(message.get("content"), list) else []:
            assert part.keys() in ({"type", "text"}, {"type", "refusal"})
