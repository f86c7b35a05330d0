"""The endpoint plugin: vLLM's hook for routes of our own, and the moment to run the gate."""

import asyncio
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from hone_contract.errors import BadInput
from hone_server import routes
from hone_server.adapters import Adapters, prove_base
from hone_server.current import Serving, current
from hone_server.follow import Follower
from hone_server.metrics import record_model
from hone_server.proof import is_acceptable, prove
from hone_server.pulse import watch
from hone_server.room import watch_room


class Plugin:
    """Made by vLLM (entry point `hone` of the group `vllm.endpoint_plugins`)."""

    name = "hone"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes; those that vLLM has too are replaced."""
        current().app = app
        routes.attach(app)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:  # noqa: ARG002
        """Runs when the engine is up and before vLLM accepts its first connection."""
        serving = current()
        serving.engine = engine_client
        # vLLM's answer to a dead engine stops this server, which it makes only after the gate.
        state.server = SimpleNamespace(should_exit=False)
        if serving.settings.base is not None:
            serving.adapters = Adapters(serving, state.openai_serving_models)
        await _pass_gate(serving)
        serving.lobby.close()
        going_on = [watch(serving), watch_room(serving)]
        if serving.adapters is None:
            going_on.append(Follower(serving).run())
        for task in map(asyncio.create_task, going_on):
            task.add_done_callback(_ended)
            serving.tasks.append(task)


def _ended(task: "asyncio.Task[None]") -> None:
    """What follows and watches must not end unnoticed: the server would stay behind, or never see a hang."""
    serving = current()
    error = None if task.cancelled() else task.exception()
    if error is not None and serving.failure is None:
        serving.failure = f"an error of the server's own: {type(error).__name__}: {error}"
        serving.stop()


async def _pass_gate(serving: Serving) -> None:
    """Raises BadInput when what is served is not what should be, and the gate is enforced."""
    serving.lobby.reason = "the gate is comparing the served model with the trained one"
    if serving.adapters is not None:
        verdict = await prove_base(serving)
    else:
        verdict = await prove(serving, serving.model)
    serving.verdict = verdict
    acceptable = is_acceptable(serving, verdict)
    if serving.adapters is None:
        _remember(serving, None if acceptable else verdict.reason)
    if not acceptable:
        raise BadInput(f"{serving.model.path}: {verdict.reason}; nothing is served")
    record_model(serving.name, serving.model.path.name, serving.model.manifest.digest)


def _remember(serving: Serving, refusal: str | None) -> None:
    if refusal is None:
        serving.memory.passed(serving.model)
    else:
        serving.memory.refused(serving.model, refusal)
