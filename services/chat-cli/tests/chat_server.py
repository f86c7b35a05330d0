"""A small OpenAI-compatible server that speaks as vLLM does and follows a script."""

import json
import sys
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from answering import answering
from chat_script import Body, Script, error_body


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
            self._reply(404, error_body(message, 404))
        elif refused := [name for name in script.refused if name in body]:
            self._reply(*script.refused[refused[0]])
        else:
            self._stream(body)

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
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: Body) -> None:
        script = self.server.script
        if script.together:
            script.together.wait(10)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        self._event(_delta({"role": "assistant", "content": ""}))
        for piece in script.answers.get(body["model"], script.pieces):
            self._event(_delta({"content": piece}))
        if script.never_ends:
            self._wait_for_hang_up(script)
        if not (script.breaks_off or script.never_ends):
            self._end_stream(script, body)

    def _end_stream(self, script: Script, body: Body) -> None:
        if script.stream_failure:
            self._event({"error": script.stream_failure})
        elif script.finish_reason:
            self._event(_delta({}, script.finish_reason))
            wanted = body.get("stream_options", {}).get("include_usage")
            usage = script.usage if wanted and script.usage else {}
            self._event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
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

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may leave in the middle; anything else is a fault of the test.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serving() -> AbstractContextManager[FakeServer]:
    return answering(FakeServer())
