"""Who may do what: the first thing that a route asks."""

import time
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from hone_api.database.session import Database
from hone_api.errors import ApiError
from hone_api.keys import Caller, Scope, digest, find_caller

_REMEMBERED = 5.0
"""Seconds for which a key that was right is taken without asking again; a revoked one is out after that."""
_MOST = 10_000


class KeyRing:
    """The keys of the database, those of the last seconds by heart."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, tuple[float, Caller]] = {}

    def caller(self, secret: str) -> Caller | None:
        """Whose key it is. None: nobody's."""
        mark, now = digest(secret), time.monotonic()
        until, caller = self._known.get(mark, (0.0, None))
        if caller is not None and now < until:
            return caller
        with self._database.reading() as session:
            caller = find_caller(session, secret)
        if caller is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[mark] = (now + _REMEMBERED, caller)
        return caller


class Allowed:
    """A dependency of a route: the caller, who has one of these scopes, as the guard before it has found."""

    def __init__(self, *scopes: Scope) -> None:
        self._scopes = scopes

    async def __call__(self, request: Request) -> Caller:
        caller: Caller = request.state.caller
        return caller

    def check(self, request: Request) -> None:
        """Raises ApiError before anything is looked up, so that it tells nothing of what there is."""
        ring: KeyRing = request.app.state.keys
        caller = ring.caller(_shown(request))
        if caller is None:
            raise ApiError(
                401,
                "Incorrect API key provided. `hone-api keys create` makes one.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not any(caller.may(scope) for scope in self._scopes):
            raise ApiError(
                403,
                f"You have insufficient permissions for this operation. Missing scopes: {self._scopes[-1]}",
                code="insufficient_permissions",
            )
        request.state.caller = caller


def guard(app: FastAPI, below: str) -> None:
    """Have every route below a path ask for the key before it reads the body, which FastAPI does first.

    Raises LookupError for a route that asks for none.
    """
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path.startswith(below):
            calls = [each.call for each in route.dependant.dependencies]
            found = next((call for call in calls if isinstance(call, Allowed)), None)
            if found is None:
                raise LookupError(f"{route.path} asks for no key")
            route.app = _Guarded(route.app, found)


class _Guarded:
    """A route's own application, behind a check."""

    def __init__(self, app: Any, allowed: Allowed) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await run_in_threadpool(self._allowed.check, Request(scope))
        await self._app(scope, receive, send)


def _shown(request: Request) -> str:
    shown = request.headers.getlist("authorization")
    scheme, _, secret = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
    return secret.strip() if scheme.lower() == "bearer" else ""


ForFiles = Annotated[Caller, Depends(Allowed("files"))]
ForTuning = Annotated[Caller, Depends(Allowed("tune"))]
ForChat = Annotated[Caller, Depends(Allowed("chat"))]
ForReading = Annotated[Caller, Depends(Allowed("chat", "tune"))]
"""Whoever may chat or tune may see what with."""
