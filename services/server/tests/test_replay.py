"""A probe is put to the server as a client would put it."""

import asyncio
import json
from typing import Any

import pytest
from server_samples import make_probe

from hone_contract.errors import HoneError
from hone_contract.probes import Probe
from hone_server.edge import GATE
from hone_server.gate import Replay
from hone_server.replay import ask_for_a_token, replay, score_alone

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


class Server:
    """Answers as vLLM does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, Any]] = {}
        self.inside = self.most_inside = self.answered = 0
        self.status = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert GATE in scope, "the edge would hold it back"
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        # So that others come in if they are to.
        await asyncio.sleep(0.001)
        body = json.loads((await receive())["body"])
        self.asked[scope["path"]] = body
        answer: dict[str, Any] = {"prompt_token_ids": [1, 2, 3]}
        if scope["path"] == "/v1/completions":
            scores = [None, *({str(token): {"logprob": -token / 10}} for token in body["prompt"][1:])]
            answer = {"choices": [{"prompt_logprobs": scores}]}
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
        self.inside -= 1
        self.answered += 1


def asked(probe: Probe) -> dict[str, Any]:
    """What the chat route gets."""
    server = Server()
    [found] = asyncio.run(replay(server, "faq", [probe]))
    assert found == Replay([1, 2, 3], [-0.4, -0.5])
    assert server.asked["/v1/completions"]["prompt"] == [1, 2, 3, 4, 5]
    return server.asked["/v1/chat/completions"]


def test_a_conversation_is_asked_as_it_is() -> None:
    probe = make_probe()
    expected = {"model": "faq", "messages": probe.messages, "max_tokens": 1, "return_token_ids": True}
    assert asked(probe) == expected


def test_tools_are_in_the_prompt_without_a_parser_of_calls() -> None:
    body = asked(make_probe(tools=TOOLS))
    assert (body["tools"], body["tool_choice"]) == (TOOLS, "none")


def test_probes_are_put_together_as_the_requests_of_clients_are() -> None:
    server = Server()
    assert len(asyncio.run(replay(server, "faq", [make_probe()] * 4))) == 4
    assert server.most_inside > 1


def test_scored_alone_they_are_put_one_after_the_other() -> None:
    server = Server()
    scores = asyncio.run(
        score_alone(server, "faq", [make_probe(), make_probe(continuation_token_ids=[7, 8])])
    )
    assert scores == [[-0.4, -0.5], [-0.7, -0.8]]
    assert (server.most_inside, server.answered) == (1, 2)
    assert server.asked["/v1/completions"]["prompt_logprobs"] == 0


def test_a_token_is_asked_for_by_the_shortest_way() -> None:
    server = Server()
    asyncio.run(ask_for_a_token(server, "faq", [1, 2]))
    assert server.asked == {
        "/v1/completions": {"model": "faq", "prompt": [1, 2], "max_tokens": 1, "temperature": 0}
    }


def test_a_server_that_refuses_is_an_error_with_its_status() -> None:
    server = Server()
    server.status = 503
    for asking in (
        replay(server, "faq", [make_probe()]),
        score_alone(server, "faq", [make_probe()]),
        ask_for_a_token(server, "faq", [1]),
    ):
        with pytest.raises(HoneError, match="failed with 503"):
            asyncio.run(asking)  # type: ignore[arg-type]
