"""Puts the probes to the served model, through the very routes that clients use."""

import asyncio
from typing import Any

import httpx

from hone_contract.errors import HoneError, RetryableFailure
from hone_contract.probes import Logprobs, Probe
from hone_server.edge import GATE
from hone_server.gate import Replay


async def replay(app: Any, model: str, probes: list[Probe]) -> list[Replay]:
    """One Replay a probe. `app` is called in this process, so no port needs to be open yet."""
    async with _client(app) as client:
        return list(await asyncio.gather(*(_replay(client, model, probe) for probe in probes)))


async def replay_by_steps(app: Any, model: str, probes: list[Probe]) -> list[Replay]:
    """The same, asking for one token at a time.

    Beside adapters vLLM cannot give the prompt's logprobs: on a CPU its engine dies of it (0.32,
    vllm/lora/punica_wrapper/punica_cpu.py, whose indices are those of the tokens to be sampled alone).
    """
    async with _client(app) as client:
        return [
            Replay(await _render(client, model, probe), await _score_by_steps(client, model, probe))
            for probe in probes
        ]


async def score_alone(app: Any, model: str, probes: list[Probe]) -> list[Logprobs]:
    """What is served now makes of each continuation, one after the other: a batch would round otherwise."""
    async with _client(app) as client:
        return [await _score(client, model, probe) for probe in probes]


async def ask_for_a_token(app: Any, model: str, prompt: list[int]) -> None:
    """Raises HoneError unless the engine gives one."""
    asked = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    async with _client(app) as client:
        await _post(client, "/v1/completions", asked)


def _client(app: Any) -> httpx.AsyncClient:
    async def as_gate(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, GATE: True}, receive, send)

    transport = httpx.ASGITransport(app=as_gate)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None)


async def _replay(client: httpx.AsyncClient, model: str, probe: Probe) -> Replay:
    # In this order the engine has the prompt's part of its cache when the chat asks for it.
    logprobs = await _score(client, model, probe)
    return Replay(await _render(client, model, probe), logprobs)


async def _render(client: httpx.AsyncClient, model: str, probe: Probe) -> list[int]:
    chat = await _post(client, "/v1/chat/completions", {"model": model, **_conversation(probe)})
    tokens: list[int] = chat["prompt_token_ids"]
    return tokens


async def _score(client: httpx.AsyncClient, model: str, probe: Probe) -> Logprobs:
    asked = {
        "model": model,
        "prompt": probe.prompt_token_ids + probe.continuation_token_ids,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }
    return _continuation_logprobs(probe, await _post(client, "/v1/completions", asked))


async def _score_by_steps(client: httpx.AsyncClient, model: str, probe: Probe) -> Logprobs:
    """The only token that is allowed is told with the logprob that it had among all."""
    told = probe.prompt_token_ids
    asked = [
        {
            "model": model,
            "prompt": told + probe.continuation_token_ids[:place],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "allowed_token_ids": [token],
        }
        for place, token in enumerate(probe.continuation_token_ids)
    ]
    answers = await asyncio.gather(*(_post(client, "/v1/completions", body) for body in asked))
    return [float(answer["choices"][0]["logprobs"]["token_logprobs"][0]) for answer in answers]


def _conversation(probe: Probe) -> dict[str, Any]:
    asked = {"messages": probe.messages, "max_tokens": 1, "return_token_ids": True}
    if probe.tools is None:
        return asked
    # The prompt is the same whatever the choice; without a parser of calls vLLM refuses all but none.
    return {**asked, "tools": probe.tools, "tool_choice": "none"}


def _continuation_logprobs(probe: Probe, scored: dict[str, Any]) -> Logprobs:
    """vLLM gives one `{token id: {logprob}}` a prompt token, the first null."""
    entries = scored["choices"][0]["prompt_logprobs"][len(probe.prompt_token_ids) :]
    return [
        float(entry[str(token)]["logprob"])
        for entry, token in zip(entries, probe.continuation_token_ids, strict=True)
    ]


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    if response.status_code != 200:
        # Of the engine: it died, or has no room now.
        failure = RetryableFailure if response.is_server_error else HoneError
        raise failure(
            f"the gate's own request to {path} failed with {response.status_code}: {response.text[:300]}"
        )
    answer: dict[str, Any] = response.json()
    return answer
