"""`hone-api serve`: all parts put together, until it is asked to end."""

import errno
import fcntl
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from hone_api.app import make_app
from hone_api.database.session import Database
from hone_api.files.removing import sweep_files
from hone_api.files.storage import Storage
from hone_api.jobs.reconcile import Reconciler, reconciling
from hone_api.launcher.gpus import gpus
from hone_api.launcher.local import LocalLauncher
from hone_api.services import Services
from hone_api.serving.upstreams import Upstreams
from hone_api.settings import Settings
from hone_api.webhooks.loop import delivering
from hone_api.webhooks.sending import trusted
from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_contract.events import Reporter

_DRAIN_SECONDS = 30


Launching = Callable[[Services], AbstractContextManager[Reconciler]]
"""Makes the loop, with what runs stages."""


@contextmanager
def local(services: Services) -> Iterator[Reconciler]:
    """Stages as processes of this machine."""
    settings, found = services.settings, gpus()
    yield Reconciler(services, LocalLauncher(settings), settings.local.slots or max(1, len(found)), found)


def serve(settings: Settings, host: str, port: int, launching: Launching = local) -> None:
    """Answers until SIGTERM; then running answers end, and stages run on for the next process to find.

    Raises RetryableFailure when another process has this data.
    """
    reporter = Reporter("api")
    # First of all: whatever speaks TLS reads the same certificates.
    tls = trusted()
    settings.make_data()
    with _alone(settings.data), _listening(host, port) as listening:
        database = Database(settings.database_url)
        database.upgrade()
        storage = Storage(settings.data)
        services = Services(settings, database, storage, Upstreams(settings), reporter)
        sweep_files(services)
        with launching(services) as reconciler:
            reporter.tell(
                "serving", f"http://{host}:{port}/v1", database=database.name, slots=reconciler.slots
            )
            asked_to_end = _run(services, reconciler, listening, tls)
        database.close()
        if not asked_to_end:
            raise RetryableFailure("the api has ended by a mistake of ours; its log tells more")


def _run(services: Services, reconciler: Reconciler, listening: socket.socket, tls: ssl.SSLContext) -> bool:
    """Until the end; whether we were asked for it."""
    server: _Server

    def failed(loop: str) -> None:
        services.reporter.tell(
            f"{loop}_ended", f"the {loop} loop has ended by a mistake of ours", level="error"
        )
        server.should_exit = True

    @contextmanager
    def background(_: Services) -> Iterator[None]:
        with (
            reconciling(reconciler, lambda: failed("reconcile")),
            delivering(services, tls, lambda: failed("webhooks")),
        ):
            yield

    app = make_app(services, background)
    server = _Server(_uvicorn(app))
    server.upstreams = services.upstreams
    server.run(sockets=[listening])
    app.state.usage.write_rest()
    return server.asked_to_end


class _Server(uvicorn.Server):
    """Uvicorn's own raises the signal once more when it has ended, as if that were a failure."""

    asked_to_end = False
    upstreams: Upstreams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever waits for a model's server has half of the time for that, and the rest for its answer."""
        self.upstreams.stop_holding(_DRAIN_SECONDS / 2)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {each: signal.signal(each, self._end) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_end = True
        self.handle_exit(number, frame)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OverflowError:
        raise BadConfiguration(f"--port {port} is no port; choose 0 to 65535") from None
    except OSError as error:
        told = f"cannot listen on {host}, port {port}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            raise RetryableFailure(told) from None
        raise BadConfiguration(told) from None
    with listening:
        yield listening


def _uvicorn(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        # Our own log has a line for each request, with its id and its key.
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        # What a proxy says of the client is believed from this machine only, and used for nothing.
        proxy_headers=False,
    )


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Two loops on one folder would begin what the other one ends."""
    lock = os.open(data / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryableFailure(f"another hone-api works on {data}; end it, or name other data") from None
        yield
    finally:
        os.close(lock)
