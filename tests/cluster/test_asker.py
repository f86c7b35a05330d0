"""What runs in the cluster's pods notices what it is there for; against a server of a few lines."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from answering import answering

SCRIPT = Path(__file__).with_name("asker.py").read_text(encoding="utf-8")
KEY = "a-key-of-the-tests"


@dataclass
class Served:
    """How the server behaves."""

    swaps_after: int = 6
    """Answers until another version is served; -1: never."""
    fails_at: int = -1
    """The answer that is a 503."""
    cuts_stream: bool = False
    tells_error: bool = False
    answered: int = 0


class _Server(ThreadingHTTPServer):
    served: Served


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        served = self.server.served
        swapped = 0 <= served.swaps_after <= served.answered
        self._send(200, {"data": [{"id": "hone-faq", "version": "second" if swapped else "first"}]})

    def do_POST(self) -> None:
        served = self.server.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served.answered += 1
        if body.get("stream"):
            self._stream(served, body["max_tokens"])
        else:
            self._send(503 if served.answered == served.fails_at else 200, {"choices": [{}]})

    def _send(self, status: int, told: dict[str, Any]) -> None:
        known = self.headers["Authorization"] == f"Bearer {KEY}"
        text = json.dumps(told).encode()
        self.send_response(status if known else 401)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, served: Served, tokens: int) -> None:
        self.send_response(200)
        self.end_headers()
        for number in range(tokens):
            if number == 5 and served.cuts_stream:
                return
            if number == 5 and served.tells_error:
                self._piece({"error": {"message": "the engine is gone"}})
            reason = "length" if number == tokens - 1 else None
            self._piece({"choices": [{"text": "x", "finish_reason": reason}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _piece(self, told: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())

    def log_message(self, *args: object) -> None:
        """No access log."""


Ask = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Runs one mode against a server that behaves so: the exit code, and what it told by event."""

    with answering(_Server(("127.0.0.1", 0), _Handler)) as server:

        def run(mode: str, seconds: float, **behaviour: Any) -> tuple[int, dict[str, dict[str, Any]]]:
            server.served = Served(**behaviour)
            finished = subprocess.run(
                [sys.executable, "-c", SCRIPT, mode, str(seconds)],
                env={
                    **os.environ,
                    "HONE_URL": f"http://127.0.0.1:{server.server_port}/v1",
                    "HONE_API_KEY": KEY,
                },
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert finished.stderr == ""
            assert KEY not in finished.stdout
            told = [json.loads(line) for line in finished.stdout.splitlines()]
            return finished.returncode, {each["event"]: each for each in told}

        yield run


def test_a_swap_without_a_failure_passes_and_the_new_version_is_asked_too(ask: Ask) -> None:
    code, told = ask("load", 30)
    assert code == 0
    assert (told["asked"]["before"], told["asked"]["after"]) == ("first", "second")
    assert told["asked"]["failed"] == 0
    assert told["asked"]["asked"] >= 6 + 9


def test_one_failed_request_fails_the_load(ask: Ask) -> None:
    code, told = ask("load", 30, fails_at=4)
    assert code == 1
    assert told["asked"]["failed"] == 1
    assert "503" in told["asked"]["failures"][0]


def test_a_version_that_never_comes_fails_the_load(ask: Ask) -> None:
    code, told = ask("load", 1, swaps_after=-1)
    assert code == 1
    assert told["asked"]["after"] == "first"


def test_an_answer_that_ends_whole_passes(ask: Ask) -> None:
    code, told = ask("stream", 1)
    assert code == 0
    assert told["streamed"]["finish"] == "length"
    assert "streaming" in told


@pytest.mark.parametrize(
    ("behaviour", "done"), [({"cuts_stream": True}, False), ({"tells_error": True}, True)]
)
def test_an_answer_that_breaks_fails_the_stream(ask: Ask, behaviour: dict[str, bool], done: bool) -> None:
    code, told = ask("stream", 1, **behaviour)
    assert code == 1
    assert told["streamed"]["done"] is done
    assert ("the engine is gone" in told["streamed"]["error"]) is done


def test_an_answer_slower_than_a_second_a_token_is_still_one(ask: Ask) -> None:
    """However the rate was measured, there is enough to stream that a pod can be deleted meanwhile."""
    _, told = ask("stream", 0)
    assert told["streamed"]["pieces"] == 32 + 1
