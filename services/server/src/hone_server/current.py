"""The one server of this process.

vLLM makes the middleware and the plugin itself and passes them nothing, so what they need stands
here; `serve` puts it in place before vLLM starts.
"""

from dataclasses import dataclass
from typing import Any

from hone_contract.artifact import Artifact
from hone_contract.events import Reporter
from hone_server.gate import Verdict
from hone_server.lobby import Lobby
from hone_server.settings import Settings


@dataclass
class Serving:
    """What is being served, and how far it has come."""

    settings: Settings
    name: str
    model: Artifact
    lobby: Lobby
    reporter: Reporter
    verdict: Verdict | None = None
    engine: Any = None
    stopping: bool = False
    """Told to stop by a signal: `/ready` says so, and vLLM drains."""


_current: list[Serving] = []


def current() -> Serving:
    return _current[-1]


def set_current(serving: Serving) -> None:
    _current[:] = [serving]
