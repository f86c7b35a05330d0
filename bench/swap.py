"""Swapping: ten swaps of two versions under load, against restarts of the server (`make bench-swap`).

The model is the demo's (`make demo` first), SmolLM2-135M in bfloat16, served in float32 on the CPU; the
second version is the same adapter with 0.6 of its effect, imported and merged by Hone's own commands. Both
servers' settings are the defaults of `hone-server`.

Eight clients ask three questions in turn, streamed, 24 tokens each, greedy, one request after the other,
until ten swaps are over and at least 200 requests were answered. An answer is counted as mixed unless it
is, letter by letter, what one of the versions says to the question when nobody swaps. A swap is asked for
as a user does, by `live`; `drain_s` (until the last answer of the old version had ended) and `swap_s` (from
then until the first of the new one may begin: reload and gate) are the server's own figures; `restart_s` is
from the start of the process until it is ready. Medians. The last line printed is JSON.

Run it on an idle machine.
"""

import asyncio
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import httpx
from safetensors.torch import load_file, save_file
from servers import Answered, Server, ask, free_port, running

from hone_contract.artifact import open_artifact
from hone_contract.store import Store

NAME, SHARE = "hone-faq", 0.6
QUESTIONS = (
    "Which file in an artifact is written last?",
    "What does the merger do?",
    "What is written by the trainer?",
)
CLIENTS, SWAPS, REQUESTS, TOKENS, RESTARTS = 8, 10, 200, 24, 2


def main() -> None:
    demo = Store.from_environment()
    with tempfile.TemporaryDirectory(dir=demo.root.resolve()) as name:
        store = _copy(demo, Path(name) / "store")
        versions = (store.read_live(NAME) or "", _second_version(store))
        port, log = free_port(), Path(name) / "log"
        command = ["hone_server", "--store", str(store.root), "--port", str(port)]
        starts = []
        for _ in range(RESTARTS):
            with running(command, port, "/ready", log) as server:
                starts.append(server.start)
        with running(command, port, "/ready", log) as server:
            starts.append(server.start)
            said = asyncio.run(_what_each_says(server, store, versions))
            answers, failed = asyncio.run(_load(server, store, versions))
            swaps = server.events("swapped")[-SWAPS:]
        print(json.dumps(_result(answers, failed, said, swaps, starts)))


def _copy(demo: Store, root: Path) -> Store:
    live = demo.read_live(NAME)
    if live is None:
        raise SystemExit(f"{demo.root}: no model {NAME}; run `make demo` first")
    store = Store(root)
    adapter = open_artifact(demo.adapter(live), "adapter")
    base = adapter.manifest.lineage["base"].id
    for source, target in (
        (demo.model(NAME, live), store.model(NAME, live)),
        (adapter.path, store.adapter(live)),
        (demo.base(base), store.base(base)),
    ):
        shutil.copytree(source, target)
    store.point_live(NAME, live)
    return store


def _second_version(store: Store) -> str:
    """By Hone's own commands, from the first one's adapter with less effect; `live` stays where it is."""
    live = store.read_live(NAME) or ""
    adapter = open_artifact(store.adapter(live), "adapter")
    plain = store.root / "plain"
    plain.mkdir()
    shutil.copyfile(adapter.path / "adapter_config.json", plain / "adapter_config.json")
    tensors = load_file(adapter.path / "adapter_model.safetensors")
    weaker = {key: value * SHARE if "lora_B" in key else value for key, value in tensors.items()}
    save_file(weaker, plain / "adapter_model.safetensors", metadata={"format": "pt"})
    base = adapter.manifest.lineage["base"].id
    _merger(store, "import-adapter", str(plain), "--base", base, "--name", "weaker")
    run = next(path.name for path in store.root.glob("adapters/weaker-*") if path.is_dir())
    _merger(store, "merge", run, "--name", NAME)
    store.point_live(NAME, live)
    return run


def _merger(store: Store, *arguments: str) -> None:
    command = [sys.executable, "-m", "hone_merger", "--store", str(store.root), *arguments]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


async def _what_each_says(server: Server, store: Store, versions: tuple[str, str]) -> dict[str, set[str]]:
    said: dict[str, set[str]] = {question: set() for question in QUESTIONS}
    async with httpx.AsyncClient(timeout=300) as client:
        for version in reversed(versions):
            await _swap(client, server, store, version)
            for question in QUESTIONS:
                said[question].add((await ask(client, server.url, NAME, question, TOKENS, exact=False)).text)
    if any(len(texts) != len(versions) for texts in said.values()):
        raise SystemExit("two versions say the same: nothing would show a mixed answer")
    return said


async def _load(
    server: Server, store: Store, versions: tuple[str, str]
) -> tuple[list[tuple[str, Answered]], int]:
    answers: list[tuple[str, Answered]] = []
    failed, over = 0, asyncio.Event()

    async def one(client: httpx.AsyncClient, number: int) -> None:
        nonlocal failed
        for question in itertools.islice(itertools.cycle(QUESTIONS), number, None):
            if over.is_set() and len(answers) + failed >= REQUESTS:
                return
            try:
                answers.append((question, await ask(client, server.url, NAME, question, TOKENS, exact=False)))
            except httpx.HTTPError as error:
                failed += 1
                sys.stderr.write(f"failed: {error!r}\n")

    async with httpx.AsyncClient(timeout=300) as client:
        clients = [asyncio.create_task(one(client, number)) for number in range(CLIENTS)]
        for number in range(SWAPS):
            goal = (number + 1) * REQUESTS // (SWAPS + 2)
            while len(answers) + failed < goal:
                await asyncio.sleep(0.05)
            await _swap(client, server, store, versions[(number + 1) % 2])
        over.set()
        await asyncio.gather(*clients)
    return answers, failed


async def _swap(client: httpx.AsyncClient, server: Server, store: Store, version: str) -> None:
    store.point_live(NAME, version)
    while (await client.get(f"{server.url}/ready")).json().get("version") != version:
        await asyncio.sleep(0.05)


def _result(
    answers: list[tuple[str, Answered]],
    failed: int,
    said: dict[str, set[str]],
    swaps: list[dict[str, float]],
    starts: list[float],
) -> dict[str, object]:
    swap, restart = statistics.median(each["swap_seconds"] for each in swaps), statistics.median(starts)
    return {
        "bench": "swap",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "requests": len(answers) + failed,
        "failed": failed,
        "mixed_answers": sum(answer.text not in said[question] for question, answer in answers),
        "swaps": len(swaps),
        "drain_s": round(statistics.median(each["drain_seconds"] for each in swaps), 3),
        "swap_s": round(swap, 3),
        "restart_s": round(restart, 2),
        "ratio": round(swap / restart, 4),
    }


if __name__ == "__main__":
    main()
