"""The way of a request: route, key, rate, body, limits, door; then vLLM."""

import sys
import uuid
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from hone_server.adapter_list import NoSuchAdapter, NotServed
from hone_server.current import Serving, current
from hone_server.edge.body import read_body, replayed, too_long
from hone_server.edge.prepared import Prepared, prepare
from hone_server.edge.rates import Rates
from hone_server.edge.refusal import SERVER, Gone, Refusal, not_ready, unknown_route, unsupported
from hone_server.edge.reply import Reply
from hone_server.edge.routes import METRICS, Route, find_route
from hone_server.edge.usage import Usage, estimate
from hone_server.keys import KeyRing
from hone_server.metrics import INSIDE, REFUSED, REQUESTS, WAITING, record_tokens

GATE = "hone.gate"
"""Key in the ASGI scope of the gate's own requests. A client cannot set it: it is no header."""

_FAILED = Refusal("The server failed on this request", "server_error", status=500, kind=SERVER)
_CLIENT_LEFT = 499


class Edge:
    """Refuses what it does not know, and whoever shows no right key; writes the rest anew for vLLM."""

    def __init__(self, app: Any) -> None:
        self.app = app
        serving = current()
        settings = serving.settings
        self._limits, self._open_metrics = settings.limits, settings.open_metrics
        self._keys = KeyRing(settings.keys, settings.key_file, serving.reporter)
        self._rates = Rates(settings.rates)
        WAITING.set_function(lambda: current().door.waiting)
        INSIDE.set_function(lambda: current().door.inside)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or GATE in scope:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            request_id = f"req-{uuid.uuid4().hex}"
            reply = Reply(send, request_id, partial(_tell, request_id))
            await self._answer(_clean(scope, request_id), scope, receive, reply)
        else:
            await _refuse_websocket(scope, send)

    async def _answer(self, clean: Any, scope: Any, receive: Any, reply: Reply) -> None:
        route = key = None
        try:
            route = find_route(scope["method"], scope["path"])
            if route is None:
                raise unknown_route(scope)
            key = self._let_in(route, scope)
            if route.answers:
                await self._complete(route, key or "", clean, scope, receive, reply)
            else:
                reply.keeps_errors = route.open
                await self.app(clean, receive, reply)
        except Refusal as refusal:
            REFUSED.labels(refusal.code).inc()
            await reply.refuse(refusal)
        except Gone:
            pass
        finally:
            # The error itself goes on, to the log.
            if isinstance(sys.exception(), Exception) and not reply.begun:
                await reply.refuse(_FAILED)
            if route and key:
                REQUESTS.labels(key, route.name, reply.status or _CLIENT_LEFT).inc()

    def _let_in(self, route: Route, scope: Any) -> str | None:
        """The key's name. None: the route needs no key."""
        if current().verdict is None:
            # vLLM logs a plugin that it cannot load and goes on: without the gate nothing is served.
            raise not_ready("the model is not proven")
        if route.open or (route is METRICS and self._open_metrics):
            return None
        name = self._keys.name_of(scope["headers"])
        if name is None:
            shown = any(header == b"authorization" for header, _ in scope["headers"])
            message = "Incorrect API key provided" if shown else "No API key was provided"
            raise Refusal(f"{message}; send it as Authorization: Bearer KEY", "invalid_api_key", status=401)
        return name

    async def _complete(
        self, route: Route, key: str, clean: Any, scope: Any, receive: Any, reply: Reply
    ) -> None:
        _check_announced(scope, self._limits.body)
        await self._rates.admit(key)
        _check_open(current())
        prepared = prepare(route.name, await read_body(receive, self._limits.body), self._limits)
        if prepared.bans_repeats and not current().bans_repeats:
            raise unsupported("no_repeat_ngram_size", "this server's engine lacks it")
        reply.hides_usage = prepared.hides_usage
        clean["headers"].append((b"content-length", str(len(prepared.body)).encode()))
        async with AsyncExitStack() as inside:
            await _admit_model(current(), prepared, inside)
            await inside.enter_async_context(current().door.pass_through())
            # It may have been shut while the request waited.
            _check_open(current())
            try:
                await self.app(clean, replayed(prepared.body, receive), reply)
            finally:
                await self._count(key, prepared.body, reply)

    async def _count(self, key: str, body: bytes, reply: Reply) -> None:
        if reply.status is not None and reply.status >= 400:
            return
        usage: Usage = reply.usage or estimate(body, reply.chunks)
        record_tokens(key, usage.prompt, usage.completion)
        await self._rates.spend(key, usage.total)


def _clean(scope: Any, request_id: str) -> dict[str, Any]:
    """The scope for vLLM, which acts on more headers than a client should have a say in."""
    headers = [pair for pair in scope["headers"] if pair[0] in (b"accept", b"accept-encoding")]
    if scope["method"] == "POST":
        headers = [(b"content-type", b"application/json")]
    headers.append((b"x-request-id", request_id.encode()))
    path = {"raw_path": scope["path"].encode(errors="replace"), "root_path": "", "query_string": b""}
    return {**scope, **path, "headers": headers}


def _check_announced(scope: Any, limit: int) -> None:
    """Before a byte of the body is read."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise too_long(limit)
    kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Refusal("Content-Type must be application/json", "invalid_content_type")


async def _admit_model(serving: Serving, prepared: Prepared, inside: AsyncExitStack) -> None:
    """Beside adapters: have the one that is asked for loaded and proven, and kept meanwhile."""
    if serving.adapters is None:
        return
    if prepared.scores_prompt is not None:
        # Its engine would die of it on a CPU; see `replay_by_steps`.
        raise unsupported(prepared.scores_prompt, "beside adapters the engine cannot score a prompt")
    if prepared.model is None or prepared.model == serving.name:
        return
    try:
        await inside.enter_async_context(serving.adapters.admitted(prepared.model))
    except NoSuchAdapter as error:
        raise Refusal(str(error), "model_not_found", status=404, param="model") from error
    except NotServed as error:
        raise Refusal(str(error), "adapter_not_served", param="model") from error


def _check_open(serving: Serving) -> None:
    if serving.stopping or serving.failure is not None:
        raise not_ready("the server is stopping")
    if serving.door.refusal is not None:
        raise not_ready(serving.door.refusal)


def _tell(request_id: str, message: str) -> None:
    current().reporter.tell("vllm_error", f"{request_id}: {message}", level="error", request_id=request_id)


async def _refuse_websocket(scope: Any, send: Any) -> None:
    REFUSED.labels("unknown_url").inc()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return

    async def send_denial(message: Any) -> None:
        await send({**message, "type": message["type"].replace("http.", "websocket.http.", 1)})

    await Reply(send_denial, "", lambda _: None).refuse(unknown_route(scope))
