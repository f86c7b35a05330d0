"""Serving: the same load on bare vLLM and on Hone's server, in alternating turns (`make bench-serve`).

The model is the demo's (`make demo` first), SmolLM2-135M in bfloat16, served in float32 on the CPU. Both
servers run all the time with the same arguments for vLLM (those of `hone_server.command`, without its
middleware, plugin and extensions on the bare side), and one of them is loaded at a time: 8 clients, 48
requests a turn of 32 tokens each, greedy, streamed. Each pair of turns begins with the other side. Before
the first pair both are loaded once.

Throughput is tokens a second over a turn, TTFT the median time until the first piece of an answer. The
ratios are Hone's over bare vLLM's: the geometric means over the pairs, and the bound of their 95 %
intervals (Student's t on the logarithms) that would have to be excluded to call Hone slower. `rss_ratio` is
of the memory of all processes at the end (proportional set size). The last line printed is JSON.

Run it on an idle machine.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from servers import Server, ask_all, free_port, running

from hone_contract.model_files import CHAT_TEMPLATE
from hone_contract.store import Store

NAME = "hone-faq"
CLIENTS, REQUESTS, TOKENS = 8, 48, 32
# Student's t, two-sided 95 %, by degrees of freedom (scipy.stats.t.ppf(0.975, n)).
T = {9: 2.262, 11: 2.201, 13: 2.160, 15: 2.131, 19: 2.093}


@dataclass(frozen=True)
class Turn:
    """One side's turn."""

    throughput: float
    """Tokens a second."""
    ttft: float
    """Seconds, median."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Hone's server against bare vLLM, in turns.")
    parser.add_argument("--pairs", type=int, default=10, choices=sorted(n + 1 for n in T), help="of turns")
    pairs = parser.parse_args().pairs
    store = Store.from_environment()
    live = store.read_live(NAME)
    if live is None:
        raise SystemExit(f"{store.root}: no model {NAME}; run `make demo` first")
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = free_port(), free_port()
        hone_command = ["hone_server", "--store", str(store.root), "--port", str(ours)]
        bare_command = _bare(store.model(NAME, live), theirs)
        with (
            running(hone_command, ours, "/ready", Path(name) / "hone.log") as hone,
            running(bare_command, theirs, "/health", Path(name) / "bare.log") as bare,
        ):
            print(json.dumps(_measure(hone, bare, pairs)))


def _bare(model: Path, port: int) -> list[str]:
    return [
        "vllm.entrypoints.launchers.api_server.entry",
        *("--model", str(model)),
        *("--served-model-name", NAME),
        *("--chat-template", str(model / CHAT_TEMPLATE)),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--dtype", "float32"),
        "--enforce-eager",
        *("--kv-cache-memory-bytes", "2G"),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
    ]


def _measure(hone: Server, bare: Server, pairs: int) -> dict[str, object]:
    for server in (hone, bare):
        _turn(server)
    turns: dict[str, list[Turn]] = {hone.url: [], bare.url: []}
    for pair in range(pairs):
        for server in (hone, bare) if pair % 2 else (bare, hone):
            turns[server.url].append(_turn(server))
        sys.stderr.write(f"pair {pair + 1}: Hone {turns[hone.url][-1]}, vLLM {turns[bare.url][-1]}\n")
    throughput = [
        math.log(a.throughput / b.throughput) for a, b in zip(turns[hone.url], turns[bare.url], strict=True)
    ]
    ttft = [math.log(a.ttft / b.ttft) for a, b in zip(turns[hone.url], turns[bare.url], strict=True)]
    return {
        "bench": "serve",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "pairs": pairs,
        "throughput": round(statistics.median(turn.throughput for turn in turns[hone.url]), 1),
        "throughput_bare": round(statistics.median(turn.throughput for turn in turns[bare.url]), 1),
        "throughput_ratio": round(math.exp(statistics.mean(throughput)), 4),
        "throughput_ratio_high": round(math.exp(statistics.mean(throughput) + _half_width(throughput)), 4),
        "ttft_ratio": round(math.exp(statistics.mean(ttft)), 4),
        "ttft_ratio_low": round(math.exp(statistics.mean(ttft) - _half_width(ttft)), 4),
        "rss_ratio": round(hone.memory() / bare.memory(), 3),
    }


def _half_width(values: list[float]) -> float:
    return T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def _turn(server: Server) -> Turn:
    questions = [f"Question {number}: what is written last?" for number in range(REQUESTS)]
    answers, seconds = asyncio.run(ask_all(server.url, NAME, questions, TOKENS, CLIENTS))
    return Turn(REQUESTS * TOKENS / seconds, statistics.median(answer.first for answer in answers))


if __name__ == "__main__":
    main()
