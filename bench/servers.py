"""Servers in processes of their own, and clients that load them, for bench/swap.py and bench/serve.py."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil


@dataclass(frozen=True)
class Server:
    """A process that answers at `url`, and how long its start took (seconds)."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path
    start: float

    def events(self, name: str) -> list[dict[str, Any]]:
        """The data of Hone's events of that name, in their order."""
        lines = (line for line in self.log.read_text(encoding="utf-8").splitlines() if line.startswith("{"))
        return [told["data"] for told in map(json.loads, lines) if told["event"] == name]

    def memory(self) -> float:
        """MB that the process and all its children have to themselves, and their share of what they share."""
        process = psutil.Process(self.process.pid)
        everyone = [process, *process.children(recursive=True)]
        return float(sum(each.memory_full_info().pss for each in everyone)) / 1e6


@contextmanager
def running(command: list[str], port: int, ready: str, log: Path) -> Iterator[Server]:
    """Start a server, wait until `ready` (a path) answers 200, and end it with what it started."""
    # Neither what a developer's .env says, nor keys.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    environment |= {"HONE_STATE": str(log.parent / "state")}
    begin, url = time.perf_counter(), f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=file, stderr=file, env=environment
        )
    try:
        while not _is_ready(f"{url}{ready}"):
            if process.poll() is not None:
                raise SystemExit(
                    f"{command[0]} ended with {process.returncode}; see {log.read_text()[-2000:]}"
                )
            time.sleep(0.1)
        yield Server(process, url, log, time.perf_counter() - begin)
    finally:
        process.terminate()
        process.wait(timeout=120)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass(frozen=True)
class Answered:
    """One streamed answer; times in seconds."""

    text: str
    pieces: int
    first: float
    """Until its first piece."""
    total: float


async def ask(
    client: httpx.AsyncClient, url: str, model: str, question: str, tokens: int, *, exact: bool
) -> Answered:
    """A greedy answer of at most that many tokens, or `exact`ly as many, streamed. Raises httpx.HTTPError."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "ignore_eos": exact,
        "temperature": 0,
        "stream": True,
    }
    begin, first, text = time.perf_counter(), 0.0, []
    async for piece in _pieces(client, f"{url}/v1/chat/completions", body):
        first = first or time.perf_counter() - begin
        text.append(piece)
    return Answered("".join(text), len(text), first, time.perf_counter() - begin)


async def _pieces(client: httpx.AsyncClient, url: str, body: dict[str, object]) -> AsyncIterator[str]:
    async with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            await response.aread()
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                told = json.loads(line.removeprefix("data: "))
                if "error" in told:
                    raise httpx.HTTPError(str(told["error"]))
                for choice in told["choices"]:
                    if content := choice["delta"].get("content"):
                        yield content


async def ask_all(
    url: str, model: str, questions: list[str], tokens: int, clients: int
) -> tuple[list[Answered], float]:
    """Every question once, `clients` at a time; the answers in the questions' order, and seconds in all."""
    room = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(timeout=300) as client:

        async def one(question: str) -> Answered:
            async with room:
                return await ask(client, url, model, question, tokens, exact=True)

        begin = time.perf_counter()
        answers = await asyncio.gather(*map(one, questions))
        return list(answers), time.perf_counter() - begin
