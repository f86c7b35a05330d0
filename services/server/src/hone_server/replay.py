"""Puts the probes to the served model, through the very routes that clients use."""

import asyncio
from typing import Any

import httpx

from hone_contract.errors import HoneError
from hone_contract.probes import Probe
from hone_server.edge import GATE
from hone_server.gate import Replay


async def replay(app: Any, model: str, probes: list[Probe]) -> list[Replay]:
    """One Replay a probe. `app` is called in this process, so no port needs to be open yet."""

    async def as_gate(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, GATE: True}, receive, send)

    transport = httpx.ASGITransport(app=as_gate)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
        return list(await asyncio.gather(*(_replay(client, model, probe) for probe in probes)))


async def _replay(client: httpx.AsyncClient, model: str, probe: Probe) -> Replay:
    chat = await _post(client, "/v1/chat/completions", {"model": model, **_conversation(probe)})
    scored = await _post(
        client,
        "/v1/completions",
        {
            "model": model,
            "prompt": probe.prompt_token_ids + probe.continuation_token_ids,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        },
    )
    return Replay(chat["prompt_token_ids"], _continuation_logprobs(probe, scored))


def _conversation(probe: Probe) -> dict[str, Any]:
    asked = {"messages": probe.messages, "max_tokens": 1, "return_token_ids": True}
    if probe.tools is None:
        return asked
    # The prompt is the same whatever the choice; without a parser of calls vLLM refuses all but none.
    return {**asked, "tools": probe.tools, "tool_choice": "none"}


def _continuation_logprobs(probe: Probe, scored: dict[str, Any]) -> list[float]:
    """vLLM gives one `{token id: {logprob}}` a prompt token, the first null."""
    entries = scored["choices"][0]["prompt_logprobs"][len(probe.prompt_token_ids) :]
    return [
        float(entry[str(token)]["logprob"])
        for entry, token in zip(entries, probe.continuation_token_ids, strict=True)
    ]


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    if response.status_code != 200:
        raise HoneError(
            f"the gate's own request to {path} failed with {response.status_code}: {response.text[:300]}"
        )
    answer: dict[str, Any] = response.json()
    return answer
