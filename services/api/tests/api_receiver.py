"""Who gets webhooks: a server on this machine that keeps what it is sent, and answers as a test says."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    """An answer without a body."""

    def answer(asked: BaseHTTPRequestHandler) -> None:
        asked.send_response(code)
        for name, value in headers.items():
            asked.send_header(name, value)
        asked.end_headers()

    return answer


@dataclass
class Receiver:
    """One that runs."""

    port: int
    answer: Answer = field(default_factory=lambda: status(204))
    got: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    """Path, headers by their names in small letters, and body of each request."""
    server_names: list[str | None] = field(default_factory=list)
    """What TLS was asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?token=secret"

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in self.got]


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """With `tls`, whose certificate it is."""
    made: Receiver

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            made.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            made.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Receiver(server.server_address[1])
    if tls is not None:
        tls.sni_callback = lambda _, name, __: made.server_names.append(name)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
