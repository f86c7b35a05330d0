"""A Hub on this machine: the few routes of the Hugging Face Hub that a download needs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Has the files of one repository, or of none, and notes what it was asked and by whom."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = ""
        self.files: Mapping[str, bytes] = {}
        self.status = 404
        """Of whatever it does not have."""
        self.asked: list[tuple[str, str | None]] = []

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to ask here."""
        return {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HUB_DISABLE_XET": "1",
        }

    def answer(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """Body and headers, or None for what it does not have."""
        if not self.repository:
            return None
        if path.startswith(f"/api/models/{self.repository}/tree/"):
            return json.dumps(self._tree).encode(), {}
        if path.startswith(f"/api/models/{self.repository}"):
            return json.dumps({"id": self.repository, "sha": COMMIT}).encode(), {}
        body = self.files.get(path.removeprefix(f"/{self.repository}/resolve/{COMMIT}/"))
        return None if body is None else (body, {"ETag": f'"{sha1(body).hexdigest()}"'})

    @property
    def _tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(body), "oid": sha1(body).hexdigest()}
            for name, body in self.files.items()
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        body, headers = self._answer()
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _answer(self) -> tuple[bytes, dict[str, str]]:
        found = self.server.answer(self.path.partition("?")[0])
        self.send_response(self.server.status if found is None else 200)
        return found or (b"", {"X-Error-Code": "RepoNotFound"} if self.server.status == 404 else {})

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
