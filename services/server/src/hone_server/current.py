"""The one server of this process.

vLLM makes the middleware and the plugin itself and passes them nothing, so what they need stands
here; `serve` puts it in place before vLLM starts.
"""

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from hone_contract.artifact import Artifact
from hone_contract.events import Reporter
from hone_server.door import Door
from hone_server.gate import Verdict
from hone_server.lobby import Lobby
from hone_server.record import Memory
from hone_server.settings import Settings


@dataclass
class Serving:
    """What is being served, and how far it has come."""

    settings: Settings
    name: str
    model: Artifact
    lobby: Lobby
    reporter: Reporter
    memory: Memory
    door: Door = field(default_factory=Door)
    verdict: Verdict | None = None
    """The gate's, of `model`. None: it has not compared yet."""
    app: Any = None
    """vLLM's, with the edge around it. None: it is not made yet."""
    adapters: Any = None
    """The base's (see hone_server.adapters). None: one merged model is served."""
    engine: Any = None
    """vLLM's client of the engine. None: it is not up yet."""
    bans_repeats: bool = True
    """Whether the engine has the logits processor for `no_repeat_ngram_size`."""
    stopping: bool = False
    """Told to stop by a signal: `/ready` says so, and vLLM drains."""
    signals: int = 0
    """To stop, as many as came; the first may be the process's own (see `stop`)."""
    restarting: bool = False
    """To be started anew in place, with a model that does not fit into this engine."""
    holding: ExitStack = field(default_factory=ExitStack)
    """Keeps `model` from being removed."""
    tasks: list[Any] = field(default_factory=list)
    """What goes on beside the answers, kept so that it is not collected as garbage."""
    failure: str | None = None
    """Why the process must end though nobody told it to. None: it need not."""

    @property
    def dtype(self) -> str:
        """The number format that the engine computes in."""
        return str(self.engine.model_config.dtype).removeprefix("torch.")

    def stop(self) -> None:
        """End vLLM as a signal from outside does; say first why, as `restarting` or `failure`."""
        os.kill(os.getpid(), signal.SIGTERM)

    def note_signal(self) -> None:
        """A signal to stop came, from this process itself or from outside."""
        self.signals += 1
        own = self.restarting or self.failure is not None
        self.stopping = self.stopping or self.signals > int(own)


_current: list[Serving] = []


def current() -> Serving:
    return _current[-1]


def set_current(serving: Serving) -> None:
    _current[:] = [serving]
