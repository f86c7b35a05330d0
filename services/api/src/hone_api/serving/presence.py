"""Whether a model that was just made can be asked already: its job ends with the answer in its events."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import httpx

from hone_api.serving.holding import NOT_THERE
from hone_api.serving.names import servers_of
from hone_api.settings import Settings, Upstream
from hone_contract.errors import BadConfiguration

_SECONDS = 3.0
_AT_ONCE = 256
"""More of them would take each other's time, and a process's files."""


@dataclass(frozen=True)
class Presence:
    """`served`: a server lists it. `asleep`: one will that is not there, and that requests wait for.
    `waiting`: one is to, and does not yet. `nobody`: none is configured.
    """

    state: Literal["served", "asleep", "waiting", "nobody"]
    message: str
    """What is so, and for `nobody` what to do. Clients see it, so it names no machine."""
    seen: str = ""
    """For the operator: the same, by the servers' addresses."""


class Listings:
    """What servers list now: those that are asked for, and each of them once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._told: dict[Upstream, _Listed | str] = {}

    def ask(self, servers: Iterable[Upstream]) -> None:
        """All at the same time. Who looks for many models has their servers asked beforehand: one model
        after the other would take some seconds for each that has none that answers.
        """
        new = [server for server in dict.fromkeys(servers) if server not in self._told]
        if new:
            self._told |= asyncio.run(_ask(new))

    def presence(self, *, base: str, served_as: str, merged: bool, version: str | None = None) -> Presence:
        """Of a model under the name that servers have for it.

        `version` is the run that a merged one was made of: under its name an older one may be served still.
        """
        servers = servers_of(self._settings, base=base, served_as=served_as, merged=merged)
        if not servers:
            wanted = f"model: {served_as}" if merged else f"base: {base}"
            told = (
                f"No server is configured for it: add one with `{wanted}` to `servers` in the api's settings."
            )
            return Presence("nobody", told)
        self.ask(servers)
        reasons: dict[Upstream, str] = {}
        for server in servers:
            reason = _why_not(self._told[server], served_as, version)
            if reason is None:
                told = f"{_called(server)} serves it as {served_as}."
                return Presence("served", told, f"{server.url} serves it as {served_as}")
            reasons[server] = reason
        seen = "; ".join(f"{server.url} {why}" for server, why in reasons.items())
        if any(server.hold_seconds for server in servers) and all(
            isinstance(self._told[server], _Absent) for server in servers
        ):
            # Nobody would wake it but a request for the model, which has no name before its job has ended.
            told = (
                f"{_called(servers[0])} is not there now; a request wakes it, and it serves {served_as} then."
            )
            return Presence("asleep", told, seen)
        # Several of one base may say the same.
        told = "; ".join(dict.fromkeys(f"{_called(server)} {why}" for server, why in reasons.items()))
        return Presence("waiting", told, seen)


_Listed = dict[str, str | None]
"""The version of each model, where the server tells it."""


class _Absent(str):
    """Why it is not known what a server lists: requests, too, would find that it is not there."""


async def _ask(servers: Sequence[Upstream]) -> dict[Upstream, _Listed | str]:
    """What each lists, or why that is not known."""
    turns = asyncio.Semaphore(_AT_ONCE)
    # Who waits for a connection of a pool does so in its own seconds.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=None, trust_env=False, limits=limits) as client:
        told = await asyncio.gather(*(_in_turn(turns, client, server) for server in servers))
    return dict(zip(servers, told, strict=True))


async def _in_turn(turns: asyncio.Semaphore, client: httpx.AsyncClient, server: Upstream) -> _Listed | str:
    async with turns:
        return await _listing(client, server)


async def _listing(client: httpx.AsyncClient, server: Upstream) -> _Listed | str:
    try:
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        async with asyncio.timeout(_SECONDS):
            answer = await client.get(f"{server.url}/v1/models", headers=headers)
    except BadConfiguration:
        return "is not asked: the file with its key cannot be read"
    except TimeoutError:
        return _Absent(f"does not answer within {_SECONDS:.0f} s")
    except httpx.HTTPError as error:
        return _Absent(f"cannot be reached: {type(error).__name__} {error}".rstrip())
    if answer.status_code in (401, 403):
        return f"refuses the key; the environment's {server.key_variable} must hold one that it takes"
    kind = _Absent if answer.status_code in NOT_THERE else str
    try:
        told = json.loads(answer.content)
        if answer.status_code == 200:
            return {model["id"]: model.get("version") for model in told["data"]}
        return kind(f"answers {answer.status_code}: {told['error']['message']}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return kind(f"answers {answer.status_code} with nothing that can be read")


def _called(server: Upstream) -> str:
    return f"The server of {server.model or server.base}"


def _why_not(listed: _Listed | str, served_as: str, version: str | None) -> str | None:
    """None: it serves it."""
    if isinstance(listed, str):
        return listed
    if served_as not in listed:
        return f"does not list {served_as} yet"
    there = listed[served_as]
    # A merge that was asked for otherwise than by default says so behind the run.
    if version is None or there is None or there == version or there.startswith(f"{version}-"):
        return None
    return f"serves {served_as} in the version {there}, and not yet in {version}"
