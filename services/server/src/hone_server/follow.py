"""Follows `models/<name>/live`: what it names is swapped in, or the server is started anew with it."""

import asyncio
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass

from hone_contract.artifact import Artifact, held, open_artifact
from hone_contract.errors import HoneError
from hone_contract.events import Level
from hone_contract.probes import read_probes
from hone_server.alike import difference
from hone_server.apart import apart
from hone_server.current import Serving
from hone_server.gate import other_files
from hone_server.metrics import record_model, record_swap
from hone_server.swap import Crowded, EngineLost, Refused, swap

# Polled, since inotify does not cross a volume that several machines share; and not by all at once.
_POLL_SECONDS, _JITTER = 1.0, 0.3
# Looking at a version may mean to read every byte of it. A volume that takes as long to tell a name hangs.
_PATIENCE_SECONDS = 15.0


@dataclass
class Follower:
    """Watches one file for one server."""

    serving: Serving
    _seen: str | None = None
    _told: str = ""
    _put_off: tuple[str, float] = ("", 0.0)
    """A version that cannot be served now, and until when it is not looked at again."""

    async def run(self) -> None:
        """For ever, or until this process cannot serve any more."""
        while self.serving.failure is None and not self.serving.restarting:
            await asyncio.sleep(_POLL_SECONDS * random.uniform(1 - _JITTER, 1 + _JITTER))
            version = await self._next_version()
            if version is not None:
                await self._change_to(version)

    async def _next_version(self) -> str | None:
        """What `live` names, once it has named it twice: a pointer that moves is left to settle."""
        serving, seen = self.serving, self._seen
        try:
            live = await self._read_live()
            self._seen = live
        except (OSError, HoneError) as error:
            self._tell(f"{error}; {serving.model.path.name} is served on")
            return None
        if live is None:
            self._tell(f"{serving.name} has no live version; {serving.model.path.name} is served on")
            return None
        if live == serving.model.path.name:
            # Whatever was wrong is told again if it comes back.
            self._told = ""
        version, until = self._put_off
        if live == version and time.monotonic() < until:
            return None
        return live if live == seen and live != serving.model.path.name else None

    async def _read_live(self) -> str | None:
        """Answers go on meanwhile, even if it takes for ever, as on a volume that hangs."""
        store, name = self.serving.settings.store, self.serving.name
        reading = asyncio.create_task(apart(lambda: store.read_live(name)))
        try:
            while not (await asyncio.wait([reading], timeout=_PATIENCE_SECONDS))[0]:
                self._tell(f"{store.root} does not answer; {self.serving.model.path.name} is served on")
        finally:
            reading.cancel()
        return reading.result()

    async def _change_to(self, version: str) -> None:
        serving = self.serving
        try:
            new, reason = await apart(lambda: self._examined(version))
        except (OSError, HoneError, Refused) as error:
            self._put_off = (version, time.monotonic() + _PATIENCE_SECONDS)
            self._tell(f"{version} is not served: {error}; {serving.model.path.name} is served on")
            return
        with ExitStack() as held_now:
            await apart(lambda: held_now.enter_context(held(new.path)))
            if await (self._swap(new) if reason is None else self._start_anew(new, reason)):
                serving.holding.close()
                serving.holding.push(held_now.pop_all())

    def _examined(self, version: str) -> tuple[Artifact, str | None]:
        """Every byte is read, before the engine is touched; and what keeps it from being swapped in.

        Raises Refused, or whatever opening it raises.
        """
        serving = self.serving
        path = serving.settings.store.model(serving.name, version)
        model = open_artifact(path, "model")
        if refusal := serving.memory.record.refusal(model):
            raise Refused(f"it was refused before: {refusal}")
        open_artifact(path, "model", digests=True)
        if changed := other_files(read_probes(path), path):
            serving.memory.refused(model, changed)
            raise Refused(changed)
        return model, difference(serving.model, model)

    async def _swap(self, new: Artifact) -> bool:
        serving, version = self.serving, new.path.name
        serving.reporter.tell("swapping", f"swapping {serving.model.path.name} for {version}")
        serving.memory.trying(new)
        try:
            swapped = await swap(serving, new)
        except Crowded as error:
            serving.memory.gave_up()
            record_swap("crowded", None, None)
            # Else one long answer would hold up all others, time and again.
            self._put_off = (version, time.monotonic() + _PATIENCE_SECONDS)
            self._tell(f"{version} is not swapped in yet: {error}")
            return False
        except (Refused, EngineLost) as error:
            serving.memory.refused(new, str(error))
            self._give_way(error)
            return False
        serving.memory.passed(new)
        record_swap("swapped", swapped.drain_seconds, swapped.swap_seconds)
        record_model(serving.name, version, new.manifest.digest)
        serving.reporter.tell(
            "swapped",
            f"{version} is served, after {swapped.drain_seconds:.2f} s to drain and "
            f"{swapped.swap_seconds:.2f} s to swap",
            drain_seconds=swapped.drain_seconds,
            swap_seconds=swapped.swap_seconds,
        )
        return True

    def _give_way(self, error: Refused | EngineLost) -> None:
        if isinstance(error, EngineLost):
            record_swap("lost", None, None)
            self.serving.failure = str(error)
            self.serving.stop()
        else:
            record_swap("refused", None, None)
            self._tell(f"refused: {error}; {self.serving.model.path.name} is served on", "error")

    async def _start_anew(self, new: Artifact, reason: str) -> bool:
        serving = self.serving
        message = f"{new.path.name} needs an engine of its own: {reason}"
        serving.reporter.tell("restarting", f"{message}; starting anew, which takes a while")
        serving.door.shut(message)
        try:
            await serving.door.wait_until_empty(serving.settings.drain_seconds)
        except TimeoutError:
            serving.reporter.tell("drain_ended", "answers that still go on are cut off", level="warning")
        serving.restarting = True
        serving.stop()
        return True

    def _tell(self, message: str, level: Level = "warning") -> None:
        """Once, however often it is found."""
        if message != self._told:
            self._told = message
            self.serving.reporter.tell("not_swapped", message, level=level)
