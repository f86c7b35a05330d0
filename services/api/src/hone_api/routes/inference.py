"""Chat, completions and responses: handed on to the server that has the model, under its name there."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect

from hone_api.access import ForChat
from hone_api.errors import ApiError, invalid
from hone_api.keys import Caller
from hone_api.metering.meter import Meter
from hone_api.metering.rates import Rates
from hone_api.metering.tokens import usage_wanted
from hone_api.routes.models import names_of
from hone_api.services import services_of
from hone_api.serving.model_field import ModelField, find_model
from hone_api.serving.proxy import Relayed

router = APIRouter(tags=["Inference"])
_SMALL = 2**16
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {"model": {"type": "string"}},
                }
            }
        },
    }
}


@router.post("/chat/completions", openapi_extra=_BODY)
async def create_chat_completion(request: Request, caller: ForChat) -> Relayed:
    """All fields but `model` are the server's to understand or to refuse. A stream is asked for its usage."""
    return await _relayed("/v1/chat/completions", request, caller)


@router.post("/completions", openapi_extra=_BODY)
async def create_completion(request: Request, caller: ForChat) -> Relayed:
    return await _relayed("/v1/completions", request, caller)


@router.post("/responses", openapi_extra=_BODY)
async def create_response(request: Request, caller: ForChat) -> Relayed:
    """For servers that have it; vLLM does, Hone's own answers 404."""
    return await _relayed("/v1/responses", request, caller)


async def _relayed(path: str, request: Request, caller: Caller) -> Relayed:
    name, field = await _model(request, caller)
    to = await names_of(request).find(caller.project_id, name)
    options = usage_wanted(field, path)
    meter = Meter(request.app.state.rates, request.app.state.usage, caller, name, field, options is not None)
    return Relayed(services_of(request), to, meter, name, path, field.renamed(to.model, options))


async def _model(request: Request, caller: Caller) -> tuple[str, ModelField]:
    """The name of a model, and the body with it."""
    try:
        # `request.body()` would keep the bytes beside those that are sent, for as long as the answer takes.
        body = b"".join([chunk async for chunk in request.stream()])
        field = await _found(request, caller, body)
    except ClientDisconnect:
        raise ApiError(408, "The client left before its request was complete", code="timeout") from None
    except ValueError as error:
        raise invalid(str(error), code="invalid_json") from None
    if not field.end:
        raise invalid("You must provide a model parameter", "model", "missing_required_parameter")
    if field.value is None:
        raise invalid("model: must be a string", "model", "invalid_type")
    return field.value, field


async def _found(request: Request, caller: Caller, body: bytes) -> ModelField:
    rates: Rates = request.app.state.rates
    rates.check(caller)
    if len(body) <= _SMALL:
        return await find_model(body)
    # A key's large ones come one after another: each takes its turns from all that stream.
    locks: MutableMapping[str, asyncio.Lock] = request.app.state.large_bodies
    async with locks.setdefault(caller.key_id, asyncio.Lock()):
        # Those before it have counted meanwhile.
        rates.check(caller)
        return await find_model(body)
