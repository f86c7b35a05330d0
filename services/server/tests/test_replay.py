"""A probe is put to the server as a client would put it."""

import asyncio
import json
from typing import Any

from server_samples import make_probe

from hone_contract.probes import Probe
from hone_server.gate import Replay
from hone_server.replay import replay

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


class Server:
    """Answers as vLLM does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, Any]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        self.asked[scope["path"]] = body
        answer: dict[str, Any] = {"prompt_token_ids": [1, 2, 3]}
        if scope["path"] == "/v1/completions":
            scores = [None, *({str(token): {"logprob": -token / 10}} for token in body["prompt"][1:])]
            answer = {"choices": [{"prompt_logprobs": scores}]}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


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
