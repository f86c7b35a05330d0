"""Streamed chat through hone-api, against the same server asked directly, in alternating turns.

The server is a stand-in (services/api/tests/api_upstream.py) in a process of its own, which answers each
request at a fixed pace: 64 tokens, 100 a second. The first comes after 50 ms: a proxy's cost is a matter of
milliseconds for each request, so this number decides what they are in proportion, and `ttft_added_ms` tells
them without it. hone-api is `hone-api serve`, with SQLite, one key and one model whose name it replaces.
The client is this process; it keeps 16 connections to each side, reads bytes and parses no JSON. In a turn
each of the 16 asks for 3 streams, one after the other; the first ones begin spread evenly over the length
of a stream, as clients who know nothing of each other do. Each pair of turns begins with the other side.
Both sides are loaded once before the first pair.

TTFT is from a request's first byte to the answer's first token, the median of a turn; throughput is the
tokens of a turn over its seconds. Ratios are hone-api's over the server's: the median over the pairs. Then
200 streams of 64 tokens at once, as fast as the stand-in makes them: `errors` counts those that were not
complete, or told the server's name of the model. The last line printed is JSON.

Run it on an idle machine: three processes share its cores.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import uvloop
from servers import free_port, running

STREAMS, EACH, TOKENS, FIRST, PACE = 16, 3, 64, 0.05, 0.01
CROWD = 200
NAME, STORED = "bench", "demo--bench"
_TESTS = Path(__file__).parents[1] / "services/api/tests"


@dataclass(frozen=True)
class Side:
    """Who is asked, and what is sent."""

    port: int
    model: str
    key: str

    def request(self, first: float, pace: float) -> bytes:
        asked = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Count"}],
            "stream": True,
            "stand_in": {"tokens": TOKENS, "first": first, "pace": pace},
        }
        body = json.dumps(asked)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()


@dataclass(frozen=True)
class Turn:
    """One side's."""

    throughput: float
    """Tokens a second."""
    ttft: float
    """Seconds, median."""
    errors: int


class Connection(asyncio.Protocol):
    """One stream at a time; of what comes, no more is looked at than must be."""

    def __init__(self) -> None:
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first, self.got = 0.0, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are not derived from it.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.got += data
        if not self.first and b'"content"' in data:
            self.first = time.perf_counter()
        if self.got.endswith(b"\r\n0\r\n\r\n") and not self._answered.done():
            self._answered.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    async def ask(self, request: bytes) -> float:
        """Seconds until the first token."""
        self._answered = asyncio.get_running_loop().create_future()
        self.first, self.got = 0.0, bytearray()
        begin = time.perf_counter()
        self.transport.write(request)
        await asyncio.wait_for(self._answered, 120)
        return self.first - begin

    def is_whole(self, model: str) -> bool:
        name = f'"model":"{model}"'.encode()
        told = (self.got.count(b'"content"'), self.got.count(name), self.got.count(b"data: [DONE]"))
        return self.got.startswith(b"HTTP/1.1 200") and told == (TOKENS, TOKENS, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="hone-api's streams against the server's own, in turns.")
    parser.add_argument("--pairs", type=int, default=20, help="of turns")
    pairs = parser.parse_args().pairs
    os.environ["PYTHONPATH"] = str(_TESTS)
    with tempfile.TemporaryDirectory() as name, _sides(Path(name)) as (proxied, direct):
        print(json.dumps(uvloop.run(_measure(proxied, direct, pairs))))


@contextmanager
def _sides(folder: Path) -> Iterator[tuple[Side, Side]]:
    """hone-api and the stand-in behind it, each in a process."""
    server, api, settings = free_port(), free_port(), folder / "hone-api.yaml"
    told = {
        "data": str(folder / "data"),
        "models": {NAME: {"base": "demo:bench"}},
        "servers": [{"url": f"http://127.0.0.1:{server}", "base": STORED}],
    }
    settings.write_text(json.dumps(told), encoding="utf-8")
    command = ["hone_api", "--config", str(settings)]
    made = [sys.executable, "-m", *command, "keys", "create"]
    key = subprocess.run(made, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with (
        running(["api_upstream", str(server)], server, "/health", folder / "server.log"),
        running([*command, "serve", "--port", str(api)], api, "/ready", folder / "api.log"),
    ):
        yield Side(api, NAME, key), Side(server, STORED, "")


async def _measure(proxied: Side, direct: Side, pairs: int) -> dict[str, object]:
    turns: dict[Side, list[Turn]] = {proxied: [], direct: []}
    for side in turns:
        await _turn(side)
    for pair in range(pairs):
        for side in (proxied, direct) if pair % 2 else (direct, proxied):
            turns[side].append(await _turn(side))
        sys.stderr.write(f"pair {pair + 1}: hone-api {turns[proxied][-1]}, server {turns[direct][-1]}\n")
    begin = time.perf_counter()
    crowd = await _streams(proxied, CROWD, 1, 0, 0)
    seconds = time.perf_counter() - begin
    both = list(zip(turns[proxied], turns[direct], strict=True))
    ttft, ttft_direct = (statistics.median(turn.ttft for turn in turns[side]) for side in (proxied, direct))
    return {
        "bench": "api_streams",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "pairs": pairs,
        "ttft_ms": round(ttft * 1e3, 2),
        "ttft_direct_ms": round(ttft_direct * 1e3, 2),
        "ttft_added_ms": round((ttft - ttft_direct) * 1e3, 2),
        "ttft_ratio": round(statistics.median(ours.ttft / theirs.ttft for ours, theirs in both), 4),
        "throughput_ratio": round(
            statistics.median(ours.throughput / theirs.throughput for ours, theirs in both), 4
        ),
        "errors_of_16": sum(turn.errors for turn in turns[proxied]),
        "errors_of_200": sum(not whole for _, whole in crowd),
        "tokens_per_second_of_200": round(CROWD * TOKENS / seconds),
    }


async def _turn(side: Side) -> Turn:
    begin = time.perf_counter()
    answers = await _streams(side, STREAMS, EACH, FIRST, PACE)
    seconds = time.perf_counter() - begin
    return Turn(
        STREAMS * EACH * TOKENS / seconds,
        statistics.median(first for first, _ in answers),
        sum(not whole for _, whole in answers),
    )


async def _streams(
    side: Side, clients: int, each: int, first: float, pace: float
) -> list[tuple[float, bool]]:
    """TTFT of every stream, and whether it was complete."""
    request, length = side.request(first, pace), first + TOKENS * pace

    async def client(number: int) -> list[tuple[float, bool]]:
        connection = await _connect(side)
        await asyncio.sleep(length * number / clients)
        answers = []
        for _ in range(each):
            waited = await connection.ask(request)
            answers.append((waited, connection.is_whole(side.model)))
        connection.transport.close()
        return answers

    told = await asyncio.gather(*map(client, range(clients)))
    return [answer for answers in told for answer in answers]


async def _connect(side: Side) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", side.port)
    return connection


if __name__ == "__main__":
    main()
