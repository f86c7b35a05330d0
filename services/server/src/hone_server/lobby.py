"""Answers on the server's port while there is no engine yet: 503, and why.

vLLM binds its port early but does not answer before the engine is up, so whoever asks would only
see a hung connection. The lobby listens on the same socket until vLLM takes it over; connections
that arrive in between wait in the socket's queue, and none is refused.
"""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

RETRY_AFTER = 2


def openai_error(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, object]:
    """The body of an error as OpenAI's API shapes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Handler(BaseHTTPRequestHandler):
    lobby: ClassVar["Lobby"]

    def do_GET(self) -> None:
        alive = self.path == "/health"
        message = f"not ready: {self.lobby.reason}"
        body = json.dumps(
            {"ready": False, "reason": self.lobby.reason}
            if self.path in ("/health", "/ready")
            else openai_error(message, "server_error", "not_ready")
        ).encode()
        self.send_response(200 if alive else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if not alive:
            self.send_header("Retry-After", str(RETRY_AFTER))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        """No access log."""


class Lobby:
    """Holds a listening socket until the engine can have it."""

    def __init__(self, listening: socket.socket) -> None:
        self.reason = "starting"
        handler = type("Handler", (_Handler,), {"lobby": self})
        self._server = ThreadingHTTPServer(listening.getsockname()[:2], handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening.dup()
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting; the socket itself stays open."""
        self._server.shutdown()
        self._server.server_close()
