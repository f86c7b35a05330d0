"""A Hub on this machine: the few routes of the Hugging Face Hub that downloads and streams need."""

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from answering import answering

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Answer = tuple[int, bytes, dict[str, str]]


class Hub(ThreadingHTTPServer):
    """Has the files of one repository, or of none, and notes what it was asked and by whom."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = ""
        self.kind: Literal["models", "datasets"] = "models"
        self.files: Mapping[str, bytes] = {}
        self.revisions = {"main", COMMIT}
        self.status = 404
        """Of whatever it does not have."""
        self.lost: set[str] = set()
        """Files for which the line goes dead."""
        self.asked: list[tuple[str, str | None]] = []

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to ask here."""
        return {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HUB_DISABLE_XET": "1",
        }

    def answer(self, path: str, body: bytes) -> Answer:
        """Status, body and headers."""
        api = f"/api/{self.kind}/{self.repository}"
        if not self.repository or not path.startswith((api, self._resolve)):
            return self._missing("Repo")
        if path.startswith(self._resolve):
            return self._file(path.removeprefix(self._resolve))
        what, _, rest = path.removeprefix(api).strip("/").partition("/")
        revision, _, folder = rest.partition("/")
        if what and revision not in self.revisions:
            return self._missing("Revision")
        if what == "tree":
            return self._json(self._tree(folder))
        if what == "paths-info":
            return self._json([entry for entry in self._all() if entry["path"] in json.loads(body)["paths"]])
        return self._json({"id": self.repository, "sha": COMMIT})

    @property
    def _resolve(self) -> str:
        return ("/datasets" if self.kind == "datasets" else "") + f"/{self.repository}/resolve/"

    def _file(self, path: str) -> Answer:
        revision, _, name = path.partition("/")
        if revision not in self.revisions:
            return self._missing("Revision")
        body = self.files.get(name)
        return (
            self._missing("Entry") if body is None else (200, body, {"ETag": f'"{sha1(body).hexdigest()}"'})
        )

    def _json(self, value: object) -> Answer:
        return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}

    def _missing(self, what: str) -> Answer:
        return self.status, b"", {"X-Error-Code": f"{what}NotFound"} if self.status == 404 else {}

    def _tree(self, folder: str) -> list[dict[str, object]]:
        """All below a folder, as when it is asked for recursively."""
        inside = f"{folder}/" if folder else ""
        return [entry for entry in self._all() if str(entry["path"]).startswith(inside)]

    def _all(self) -> list[dict[str, object]]:
        folders = {name.rpartition("/")[0] for name in self.files} - {""}
        return [
            *({"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)),
            *(
                {"type": "file", "path": name, "size": len(body), "oid": sha1(body).hexdigest()}
                for name, body in self.files.items()
            ),
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        if any(self.path.partition("?")[0].endswith(name) for name in self.server.lost):
            self.close_connection = True
            return
        asked = self.rfile.read(int(self.headers["Content-Length"] or 0))
        status, body, headers = self.server.answer(self.path.partition("?")[0], asked)
        if status == 200 and (part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")):
            first, last = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
            status, body = 206, body[first : last + 1]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


def serving() -> AbstractContextManager[Hub]:
    return answering(Hub())
