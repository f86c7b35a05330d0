"""A Hub on this machine that takes uploads: repositories, preupload, Git LFS and commits, as its client asks.

The routes and answers are those of huggingface_hub 2.4 (`_commit_api.py`, `lfs.py`).
"""

import base64
import json
from contextlib import AbstractContextManager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from answering import answering

TOKEN = "hf_not-a-real-token"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
_OURS = "/api/"
"""Tests beside this one may ask a server that is gone, whose port is ours now; they ask for other things."""


class Hub(ThreadingHTTPServer):
    """Notes what it is asked, and keeps what arrives; `status` other than 200 is its answer to all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.private: dict[str, bool] = {}
        """Of each repository that was made."""
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []
        """Their messages."""
        self.blobs: dict[str, bytes] = {}
        """Of Git LFS, by SHA-256."""
        self.loses_blobs = False
        self.xet_status = 200
        """To who asks for a token of Xet."""
        self.batch_error = ""
        """Of Git LFS, for each file that it is asked about."""
        self.tokens: set[str | None] = set()

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to publish here."""
        return {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": self.address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
        }

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> object:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.private.setdefault(name, asked["visibility"] == "private")
            return {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            return {"files": [self._mode(file) for file in json.loads(body)["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            return {
                "transfer": "basic",
                "objects": [self._action(each) for each in json.loads(body)["objects"]],
            }
        if "/tree/" in path:
            return [
                {"type": "file", "path": name, "size": len(data), "oid": _git_hash(data)}
                for name, data in self.files.items()
            ]
        if "/commit/" in path:
            return self._commit(body)
        name = path.removeprefix("/api/models/")
        return {"id": name, "sha": COMMIT, "private": self.private.get(name, False)}

    def _mode(self, file: dict[str, str]) -> dict[str, object]:
        large = file["path"].endswith(".safetensors")
        mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if (there := self.files.get(file["path"])) is not None:
            mode["oid"] = sha256(there).hexdigest() if large else _git_hash(there)
        return mode

    def _action(self, asked: dict[str, object]) -> dict[str, object]:
        """What is there already is not asked for again."""
        if self.batch_error:
            return {**asked, "error": {"code": 422, "message": self.batch_error}}
        upload = {"href": f"{self.address}/blob/{asked['oid']}", "header": {}}
        return asked if asked["oid"] in self.blobs else {**asked, "actions": {"upload": upload}}

    def _commit(self, body: bytes) -> object:
        for line in body.decode().splitlines():
            told = json.loads(line)
            value = told["value"]
            if told["key"] == "header":
                self.commits.append(value["summary"])
            elif told["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif told["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
            else:
                assert told["key"] == "deletedFile", told
                del self.files[value["path"]]
        return {"commitUrl": f"{self.address}/somebody/some-model/commit/{COMMIT}", "commitOid": COMMIT}


def _git_hash(content: bytes) -> str:
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        if self.path.startswith(_OURS) or "/info/lfs/" in self.path:
            self.server.tokens.add(self.headers["Authorization"])
        body = self._body()
        if "/xet-write-token/" in self.path:
            self._say(self.server.xet_status, {})
            return
        self._say(self.server.status, self.server.answer(self.path.partition("?")[0], body))

    do_GET = do_POST

    def do_PUT(self) -> None:
        body = self._body()
        if self.server.loses_blobs:
            self._say(400, {})
            return
        self.server.blobs[self.path.rpartition("/")[2]] = body
        self._say(200, {})

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _say(self, status: int, value: object) -> None:
        body = json.dumps(value if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


def taking_uploads() -> AbstractContextManager[Hub]:
    return answering(Hub())
