"""The endpoint plugin: vLLM's hook for routes of our own, and the moment to run the gate."""

from argparse import Namespace
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse

from hone_contract.errors import BadInput
from hone_contract.probes import read_probes
from hone_server.current import Serving, current
from hone_server.gate import Verdict, judge, other_files
from hone_server.lobby import openai_error
from hone_server.replay import replay


class Plugin:
    """Made by vLLM (entry point `hone` of the group `vllm.endpoint_plugins`)."""

    name = "hone"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.app: FastAPI | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes; those that vLLM has too are replaced."""
        self.app = app
        app.add_api_route("/ready", ready, methods=["GET"])
        app.add_api_route("/v1/models", list_models, methods=["GET"])
        app.add_api_route("/v1/models/{model}", retrieve_model, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:  # noqa: ARG002
        """Runs when the engine is up and before vLLM accepts its first connection."""
        serving = current()
        serving.engine = engine_client
        await _pass_gate(serving, self.app)
        serving.lobby.close()


async def _pass_gate(serving: Serving, app: Any) -> None:
    """Raises BadInput when the served model is not the merged one and the gate is enforced."""
    serving.lobby.reason = "the gate is comparing the served model with the trained one"
    verdict = await _compare(serving, app)
    serving.verdict = verdict
    tell = serving.reporter.tell
    if verdict.passed:
        tell(
            "gate_passed",
            f"gate: {verdict.reason} (max |Δ logprob| {verdict.max_abs_delta:.1e})",
            verdict=_json(),
        )
    elif serving.settings.gate == "warn":
        tell("gate_failed", f"gate: {verdict.reason}; served all the same", level="warning", verdict=_json())
    else:
        tell("gate_refused", f"gate: {verdict.reason}", level="error", verdict=_json())
        raise BadInput(f"{serving.model.path}: {verdict.reason}; nothing is served")


async def _compare(serving: Serving, app: Any) -> Verdict:
    recorded = read_probes(serving.model.path)
    dtype = str(serving.engine.model_config.dtype).removeprefix("torch.")
    if changed := other_files(recorded, serving.model.path):
        return Verdict(False, changed, dtype, len(recorded.probes))
    return judge(recorded.probes, await replay(app, serving.name, recorded.probes), dtype)


def _json() -> Any:
    verdict = current().verdict
    return verdict.to_json() if verdict else None


async def ready() -> JSONResponse:
    """200 with the gate's verdict. Before there is one, the lobby answers here with 503."""
    serving = current()
    if serving.stopping:
        return JSONResponse({"ready": False, "reason": "the server is stopping"}, 503)
    return JSONResponse(
        {"ready": True, "model": serving.name, "version": serving.model.path.name, "gate": _json()}
    )


async def list_models() -> dict[str, object]:
    return {"object": "list", "data": [_card()]}


async def retrieve_model(model: str) -> JSONResponse:
    if model == current().name:
        return JSONResponse(_card())
    message = f"The model {model!r} does not exist; there is {current().name!r}"
    return JSONResponse(openai_error(message, "invalid_request_error", "model_not_found"), 404)


def _card() -> dict[str, object]:
    """As OpenAI's API shapes it. vLLM's own would tell the path of the weights."""
    created = int(current().model.manifest.created_at.timestamp())
    return {"id": current().name, "object": "model", "created": created, "owned_by": "hone"}
