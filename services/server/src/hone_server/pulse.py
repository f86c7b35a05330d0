"""Finds an engine that hangs, which no health check of vLLM's sees: it is asked for a token now and then."""

import asyncio
import time
from contextlib import suppress

import psutil
from prometheus_client import REGISTRY

from hone_contract.errors import HoneError
from hone_contract.probes import read_probes
from hone_server.current import Serving
from hone_server.replay import ask_for_a_token

_EVERY_SECONDS = 10.0
_STEP_SECONDS = 0.5
_PROGRESS = ("vllm:prompt_tokens", "vllm:generation_tokens")


async def watch(serving: Serving) -> None:
    """An engine that makes no token in `hang_seconds` is killed, which ends the process with 75."""
    prompt = _prompt(serving)
    while True:
        await asyncio.sleep(min(_EVERY_SECONDS, serving.settings.hang_seconds))
        # While the door is closed the engine is busy with other things than tokens.
        if serving.door.is_open and not await _answers(serving, prompt):
            _kill(serving)
            return


def _prompt(serving: Serving) -> list[int]:
    """A base has no probes; any token does."""
    if serving.model.manifest.kind != "model":
        return [0]
    return next((probe.prompt_token_ids for probe in read_probes(serving.model.path).probes), [0])


async def _answers(serving: Serving, prompt: list[int]) -> bool:
    asked = asyncio.create_task(_ask(serving, prompt))
    try:
        last, since = _tokens(), time.monotonic()
        while not asked.done():
            await asyncio.wait([asked], timeout=_STEP_SECONDS)
            # A long queue is no hang: others are answered meanwhile.
            if (tokens := _tokens()) != last or not serving.door.is_open:
                last, since = tokens, time.monotonic()
            if time.monotonic() - since > serving.settings.hang_seconds:
                return asked.done()
        return True
    finally:
        asked.cancel()


async def _ask(serving: Serving, prompt: list[int]) -> None:
    try:
        await ask_for_a_token(serving.app, serving.name, prompt)
    except HoneError as error:
        # An answer all the same; an engine that died is vLLM's to tell.
        serving.reporter.tell("pulse_failed", str(error), level="warning")


def _tokens() -> float:
    """How many tokens the engine has read and made, by vLLM's own counters."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        if metric.name in _PROGRESS
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


def _kill(serving: Serving) -> None:
    serving.failure = f"the engine hung: no token in {serving.settings.hang_seconds:g} s"
    serving.reporter.tell("engine_hung", f"{serving.failure}; it is killed", level="error")
    # A stopped process takes no other signal; and the engine's workers would outlive it. vLLM then sees that
    # its engine died.
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
