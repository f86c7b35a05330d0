"""The routes that vLLM lacks, or answers otherwise than OpenAI's API."""

from fastapi import FastAPI
from starlette.responses import JSONResponse

from hone_contract.artifact import Artifact
from hone_server.adapter_list import adapters_of
from hone_server.apart import apart
from hone_server.current import Serving, current
from hone_server.lobby import openai_error


def attach(app: FastAPI) -> None:
    app.add_api_route("/ready", ready, methods=["GET"])
    app.add_api_route("/v1/models", list_models, methods=["GET"])
    # A model's id may hold slashes.
    app.add_api_route("/v1/models/{model:path}", retrieve_model, methods=["GET"])


async def ready() -> JSONResponse:
    """200 with the gate's verdict. Before there is one, the lobby answers here with 503."""
    serving = current()
    if serving.stopping:
        return JSONResponse({"ready": False, "reason": "the server is stopping"}, 503)
    if refusal := serving.failure or serving.door.refusal:
        return JSONResponse({"ready": False, "reason": refusal}, 503)
    told = {
        "ready": True,
        "model": serving.name,
        "version": serving.model.path.name,
        "digest": serving.model.manifest.digest,
        "gate": serving.verdict.to_json() if serving.verdict else None,
    }
    return JSONResponse(told | (_versions(serving) if serving.adapters is None else _adapters(serving)))


def _versions(serving: Serving) -> dict[str, object]:
    record, version = serving.memory.record, serving.model.path.name
    before = [each for each in record.passed if each != version]
    return {
        "swapping": not serving.door.is_open,
        "previous": before[-1] if before else None,
        "refused": {each.version: {"digest": each.digest, "reason": each.reason} for each in record.refused},
    }


def _adapters(serving: Serving) -> dict[str, object]:
    return {"adapters": {name: verdict.to_json() for name, verdict in serving.adapters.loaded.items()}}


async def list_models() -> dict[str, object]:
    return {"object": "list", "data": [_card(model) for model in await apart(_models)]}


async def retrieve_model(model: str) -> JSONResponse:
    models = await apart(_models)
    for each in models:
        if _id(each) == model:
            return JSONResponse(_card(each))
    there = repr(_id(models[0])) if len(models) == 1 else "a list of them at GET /v1/models"
    message = f"The model {model!r} does not exist; there is {there}"
    return JSONResponse(openai_error(message, "invalid_request_error", "model_not_found"), 404)


def _models() -> list[Artifact]:
    serving = current()
    if serving.adapters is None:
        return [serving.model]
    return [serving.model, *adapters_of(serving.settings.store, serving.model)]


def _id(model: Artifact) -> str:
    return current().name if model.path == current().model.path else model.manifest.id


def _card(model: Artifact) -> dict[str, object]:
    """As OpenAI's API shapes it, and where the model comes from; vLLM's own tells the path of the weights."""
    manifest = model.manifest
    base = manifest.lineage.get("base")
    return {
        "id": _id(model),
        "object": "model",
        "created": int(manifest.created_at.timestamp()),
        "owned_by": "hone",
        "version": model.path.name,
        "digest": manifest.digest,
        "base": base.id if base else None,
        "lineage": {name: {"id": each.id, "digest": each.digest} for name, each in manifest.lineage.items()},
    }
