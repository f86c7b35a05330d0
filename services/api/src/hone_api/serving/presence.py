"""Whether a model that was just made can be asked already: its job ends with the answer in its events."""

import json
from dataclasses import dataclass
from typing import Literal

import httpx

from hone_api.serving.names import servers_of
from hone_api.settings import Settings, Upstream

_SECONDS = 3.0


@dataclass(frozen=True)
class Presence:
    """`served`: a server lists it. `waiting`: one is to, and does not yet. `nobody`: none is configured."""

    state: Literal["served", "waiting", "nobody"]
    message: str
    """What is so, and for `nobody` what to do."""


def presence(settings: Settings, *, base: str, served_as: str, merged: bool) -> Presence:
    """Asks the servers that are to have it; takes a few seconds for each at most."""
    servers = servers_of(settings, base=base, served_as=served_as, merged=merged)
    if not servers:
        wanted = f"model: {served_as}" if merged else f"base: {base}"
        return Presence(
            "nobody",
            f"No server is configured for it: add one with `{wanted}` to `servers` in the api's settings.",
        )
    reasons = []
    for server in servers:
        reason = _why_not(server, served_as)
        if reason is None:
            return Presence("served", f"{server.url} serves it as {served_as}.")
        reasons.append(f"{server.url} {reason}")
    return Presence("waiting", "; ".join(reasons))


def _why_not(server: Upstream, served_as: str) -> str | None:
    """None: it serves it."""
    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    try:
        answer = httpx.get(f"{server.url}/v1/models", headers=headers, timeout=_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return f"cannot be reached: {type(error).__name__} {error}".rstrip()
    if answer.status_code in (401, 403):
        return f"refuses the key; the environment's {server.key_variable} must hold one that it takes"
    try:
        told = json.loads(answer.content)
        if answer.status_code == 200:
            listed = {model["id"] for model in told["data"]}
            return None if served_as in listed else f"does not list {served_as} yet"
        return f"answers {answer.status_code}: {told['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"answers {answer.status_code} with nothing that can be read"
