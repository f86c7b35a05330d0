"""What the tests drive: a small OpenAI-compatible server, and the real command in a process."""

import codecs
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

SECONDS = 15.0
COMMAND = [sys.executable, "-m", "hone_chat"]
Body = dict[str, Any]


@dataclass
class Script:
    """What the server does next, and what it was asked."""

    models: list[str] = field(default_factory=lambda: ["hone-faq"])
    key: str | None = None
    pieces: list[str] = field(default_factory=lambda: ["Par", "is."])
    finish_reason: str | None = "stop"
    failure: tuple[int, Any] | None = None
    stream_failure: Body | None = None
    breaks_off: bool = False
    never_ends: bool = False
    asked: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FakeServer"

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        script = self.server.script
        if self._refused():
            return
        models = [{"id": name, "object": "model"} for name in script.models]
        self._reply(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        script = self.server.script
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        script.asked.append(body)
        if body["model"] not in script.models:
            message = f"The model `{body['model']}` does not exist."
            self._reply(404, {"error": {"message": message, "type": "NotFoundError", "code": 404}})
        else:
            self._stream()

    def _refused(self) -> bool:
        script = self.server.script
        script.headers.append(dict(self.headers))
        given = self.headers.get("Authorization")
        if script.key and given != f"Bearer {script.key}":
            # The string in place of an object, as vLLM does it.
            self._reply(401, {"error": f"Unauthorized: {given}"})
        elif not self.path.startswith("/v1/"):
            self._reply(404, {"detail": "Not Found"})
        elif script.failure:
            self._reply(*script.failure)
        else:
            return False
        return True

    def _reply(self, status: int, body: Any) -> None:
        is_text = isinstance(body, str)
        data = body.encode() if is_text else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if is_text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        script = self.server.script
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event(_delta({"role": "assistant", "content": ""}))
        for piece in script.pieces:
            self._event(_delta({"content": piece}))
        if script.never_ends:
            self._wait_for_hang_up(script)
        if script.breaks_off or script.never_ends:
            self.close_connection = True
        else:
            self._end_stream(script)

    def _end_stream(self, script: Script) -> None:
        if script.stream_failure:
            self._event({"error": script.stream_failure})
        elif script.finish_reason:
            self._event(_delta({}, script.finish_reason))
            self._event({"object": "chat.completion.chunk", "choices": [], "usage": {}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _wait_for_hang_up(self, script: Script) -> None:
        try:
            while not script.hung_up.wait(0.02):
                self._chunk(b": still here\n\n")
        except OSError:
            script.hung_up.set()

    def _event(self, body: Body) -> None:
        self._chunk(f"data: {json.dumps(body)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def _delta(delta: Body, finish_reason: str | None = None) -> Body:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


class FakeServer(ThreadingHTTPServer):
    """A server on an ephemeral port of the loopback that follows a Script."""

    daemon_threads = True
    script: Script

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = Script()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def serving() -> Iterator[FakeServer]:
    """A server that answers while the context lasts."""
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Outcome:
    """What a finished process left behind."""

    code: int
    out: str
    err: str


def environment(url: str, **more: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with a server."""
    ours = ("HONE_", "OPENAI_", "COLUMNS", "LINES", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "HONE_URL": url, "PYTHONUTF8": "1", "TERM": "xterm", **more}


Run = Callable[..., Outcome]


def run_process(url: str, *arguments: str, stdin: bytes = b"", **more: str) -> Outcome:
    """Run the command to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(url, **more),
        timeout=SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, url: str, *arguments: str, **more: str) -> None:
        self._ours, theirs = pty.openpty()
        # The shell opens the terminal as leader of a new session, so that Ctrl-C reaches it.
        shell = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs)]
        self._process = subprocess.Popen(
            [*shell, *COMMAND, *arguments],
            env=environment(url, **more),
            start_new_session=True,
        )
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._theirs = theirs
        self._seen = 0
        self.screen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        os.close(self._theirs)
        os.close(self._ours)

    def wait_for(self, pattern: str) -> str:
        """Read on until the pattern shows up; what came till then."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.compile(pattern).search(self.screen, self._seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.screen!r}"
            self._read(0.1)
        text = self.screen[self._seen : found.end()]
        self._seen = found.end()
        return text

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def ask(self, text: str) -> str:
        """Type a line at the prompt; what is shown until the next prompt."""
        self.wait_for("you> ")
        self.type(f"{text}\r")
        self.wait_for(r"\n")
        start = self._seen
        self.wait_for("you> ")
        self._seen -= len("you> ")
        return self.screen[start : self._seen]

    def leave(self, keys: str) -> int:
        """Type at the prompt and wait for the end; the exit code."""
        self.wait_for("you> ")
        self.type(keys)
        return self.end()

    def end(self) -> int:
        """Read until the command ends; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"still running: {self.screen!r}"
            self._read(0.02)
        while self._read(0):
            pass
        return self._process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        self.screen += self._decoder.decode(os.read(self._ours, 65536))
        return True
