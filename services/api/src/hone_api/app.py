"""The application: routes, what is around them, and what lives as long as it does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from hone_api.access import KeyRing, guard
from hone_api.errors import ApiError, busy, invalid
from hone_api.files.turns import Turns
from hone_api.metering.rates import Rates
from hone_api.metering.usage import Usage
from hone_api.middleware import Around
from hone_api.routes import files, health, inference, jobs, models, permissions, uploads
from hone_api.services import Services
from hone_api.serving.names import Names

_DATABASE_SECONDS = 5

Background = Callable[[Services], AbstractContextManager[None]]
"""What runs beside the routes: the reconcile loop."""


def make_app(services: Services, background: Background = lambda _: nullcontext()) -> FastAPI:
    """All routes of OpenAI's that there are here, below `/v1`."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        with background(services):
            async with services.upstreams, app.state.usage.recording():
                yield

    app = FastAPI(
        title="Hone",
        summary="OpenAI's Files and Fine-tuning API on one's own GPUs",
        version="0.1.0",
        lifespan=living,
        # A redirection has no body of OpenAI's, and names a host that a proxy in front may hide.
        redirect_slashes=False,
    )
    app.state.services = services
    app.state.keys = KeyRing(services.database)
    app.state.turns = Turns()
    # By key; they are there for as long as somebody holds one or waits for it.
    app.state.large_bodies = WeakValueDictionary[str, asyncio.Lock]()
    app.state.rates = Rates(services.settings.limits)
    app.state.usage = Usage(services.settings, services.database, services.reporter)
    app.state.names = Names(services.settings, services.database)
    for each in (files, uploads, jobs, permissions, models, inference):
        app.include_router(each.router, prefix="/v1")
    guard(app, "/v1/")
    app.include_router(health.router)
    app.add_exception_handler(RequestValidationError, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(OperationalError, _without_database)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Around, limits=services.settings.limits, reporter=services.reporter)
    return app


async def _told(_: Request, error: Exception) -> JSONResponse:
    told = _as_api_error(error)
    return JSONResponse(told.body, told.status_code, headers=told.headers)


async def _without_database(request: Request, error: Exception) -> JSONResponse:
    """It may be back when the client asks again, which SDKs do by themselves."""
    assert isinstance(error, OperationalError)
    services: Services = request.app.state.services
    services.reporter.tell(
        "database_failed", str(error.orig), level="error", request_id=request.state.request_id
    )
    return await _told(request, busy("The database does not answer", _DATABASE_SECONDS))


async def _failed(request: Request, _: Exception) -> JSONResponse:
    """A mistake of ours: the log has it in full, under the request's id."""
    request_id = request.state.request_id
    told = ApiError(500, f"Something went wrong here; request {request_id}", kind="server_error")
    return JSONResponse(told.body, 500, headers={"x-request-id": request_id})


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _first_problem(error.errors())
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, str(error.detail), headers=error.headers)


def _first_problem(problems: Any) -> ApiError:
    """As OpenAI has it: one field, by its path in the body."""
    first = problems[0]
    if first["type"] == "literal_error" and str(first["loc"][-1]).startswith("literal["):
        # One of `"auto"` or a number: what is wrong with the number says more.
        field = first["loc"][:-1]
        others = [each for each in problems if each["loc"][:-1] == field]
        first = {**others[-1], "loc": field}
    where = [str(each) for each in first["loc"] if each not in ("body", "query", "path")]
    param = ".".join(where) or None
    return invalid(f"{param}: {first['msg']}" if param else str(first["msg"]), param)
