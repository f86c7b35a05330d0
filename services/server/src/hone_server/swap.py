"""Puts another version of the model into the running engine, and back again when in doubt.

Requests wait at the door meanwhile: those inside end with the weights they began with, and no other
request sees weights that are not proven. The engine's own pause clears its caches, which would answer with
the old weights; it must be over before the gate can ask.
"""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from hone_contract.artifact import Artifact
from hone_contract.errors import HoneError
from hone_contract.probes import read_probes
from hone_server.alike import same_weights
from hone_server.apart import apart
from hone_server.current import Serving
from hone_server.gate import Verdict, telling, unchanged
from hone_server.proof import is_acceptable, prove
from hone_server.replay import score_alone

# Loading and proving, and taking back: the largest models take minutes from a slow volume.
_LONGEST_SECONDS = 1800.0


class Refused(Exception):
    """The other version is not served, and the one before it is again."""


class EngineLost(Exception):
    """Neither version can be served: only another start helps."""


class Crowded(Exception):
    """Answers went on for too long: nothing was changed, and it can be tried again."""


@dataclass(frozen=True)
class Swapped:
    """A version that is served now, and how long requests waited for it."""

    verdict: Verdict
    drain_seconds: float
    """Until the last answer of the old version had ended."""
    swap_seconds: float
    """From then until the first answer of the new one could begin."""


async def swap(serving: Serving, new: Artifact) -> Swapped:
    """Serve `new` in the place of `serving.model`, which must be alike (see `alike`).

    Raises Refused, EngineLost or Crowded. After EngineLost, or an error of another kind, nobody is let in.
    """
    old = serving.model
    try:
        drained = await serving.door.close(serving.settings.drain_seconds)
    except TimeoutError:
        inside = serving.door.inside
        raise Crowded(f"{inside} answers went on for {serving.settings.drain_seconds:g} s") from None
    start = time.monotonic()
    proven = False
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            verdict = await _take_over_or_return(serving, old, new)
        serving.verdict, proven = verdict, True
    except Refused:
        proven = True
        raise
    except TimeoutError:
        raise EngineLost(f"the engine did not come back in {_LONGEST_SECONDS:g} s") from None
    finally:
        if proven:
            serving.door.open()
        else:
            serving.door.shut("the engine holds weights that are not proven")
    return Swapped(verdict, drained, time.monotonic() - start)


async def _take_over_or_return(serving: Serving, old: Artifact, new: Artifact) -> Verdict:
    try:
        verdict = await _take_over(serving, old, new)
    except _Failed as error:
        serving.verdict = await _return_to(serving, old, str(error))
        raise Refused(str(error)) from error
    serving.model = new
    return verdict


class _Failed(Exception):
    """The engine did not take the weights, does not answer, or is not what it should be."""


async def _take_over(serving: Serving, old: Artifact, new: Artifact) -> Verdict:
    try:
        # One is enough: other weights change each of its logprobs, and requests wait.
        probes = telling((await apart(lambda: read_probes(new.path))).probes, 1)
        before = await score_alone(serving.app, serving.name, probes)
        verdict = await _load_and_prove(serving, new)
        after = await score_alone(serving.app, serving.name, probes)
    except HoneError as error:
        raise _Failed(str(error)) from error
    if verdict.passed and unchanged(before, after) and not await apart(lambda: same_weights(old, new)):
        verdict = verdict.refused(f"the weights of {old.path.name} are still served")
    if not is_acceptable(serving, verdict):
        raise _Failed(verdict.reason)
    return verdict


async def _return_to(serving: Serving, old: Artifact, reason: str) -> Verdict:
    serving.reporter.tell("rolling_back", f"back to {old.path.name}: {reason}", level="error")
    try:
        verdict = await _load_and_prove(serving, old)
    except (HoneError, _Failed) as error:
        raise EngineLost(f"{old.path.name} cannot be served again: {error}") from error
    if not is_acceptable(serving, verdict):
        raise EngineLost(f"{old.path.name} is not what is served after it was loaded again: {verdict.reason}")
    return verdict


async def _load_and_prove(serving: Serving, model: Artifact) -> Verdict:
    engine = serving.engine
    await _done(engine.pause_generation(mode="wait", clear_cache=True))
    # Left paused if it fails: what the engine holds then must not be run.
    await _done(engine.collective_rpc("hone_reload", args=(str(model.path),)))
    await _done(engine.resume_generation())
    return await prove(serving, model)


async def _done(call: Awaitable[object]) -> None:
    """vLLM hands on whatever went wrong in the engine's process as an Exception of no particular class."""
    [outcome] = await asyncio.gather(call, return_exceptions=True)
    if isinstance(outcome, BaseException):
        raise _Failed(f"the engine failed: {outcome}") from outcome
