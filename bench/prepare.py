"""Preparing data: Hone's whole validation and cleaning against a bare pass of the parser (`make bench-data`).

The file: 1 GB (--megabytes) of OpenAI's messages JSONL, about 1.5 KB a record: a system prompt that all
share, a question and an answer of made-up words with the frequencies of a language (Zipf). 10 % of the
records are exact copies of earlier ones, 2 % are near copies in which 3 % of the words are others. Seed 42.

Hone's side is `hone-trainer prepare` with its defaults, but for a Hub base that is not there, so that no
tokens are counted: read, validate, clean, find exact and near duplicates, split, write, seal. The other side
is a process that reads the file line by line and calls `json.loads`, the parser that Hone uses. In turns,
medians. The memory is that of all its processes together, looked at ten times a second, shared pages counted
in each. `tokenize_ratio` is apart: rendering, tokenising and masking the first 32 MB with the demo base, over
the bare pass's time for as many bytes.

Run it on an idle machine. The last line printed is JSON.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import psutil

from hone_contract.artifact import open_artifact
from hone_contract.model_files import CHAT_TEMPLATE
from hone_contract.store import Store
from hone_trainer.base import DEMO, import_base, locate
from hone_trainer.data.tokeniser import Tokeniser

SEED, TURNS = 42, 3
EXACT, NEAR, CHANGED = 0.10, 0.02, 0.03
TOKENISED = 32 * 10**6
SPEC = "model: {name: Qwen/Qwen2.5-0.5B-Instruct}\ndata: data.jsonl\n"
BARE = "import json, sys\nfor line in open(sys.argv[1], 'rb'):\n    json.loads(line)\n"
SYSTEM = "You answer questions about the records of the archive, briefly and from what you know."
# Earlier records that later ones may repeat.
KEPT = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the preparation of data.")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file (default: 1000)")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory(dir=_room()) as name:
        folder = Path(name)
        planted = _write(folder / "data.jsonl", megabytes * 10**6)
        (folder / "run.yaml").write_text(SPEC)
        bare, hone, peaks = [], [], []
        for turn in range(1, TURNS + 1):
            bare.append(_run([sys.executable, "-c", BARE, str(folder / "data.jsonl")])[0])
            seconds, peak = _run(_prepare(folder, turn))
            hone.append(seconds)
            peaks.append(peak)
            sys.stderr.write(f"turn {turn}: bare {bare[-1]:.1f} s, Hone {seconds:.1f} s, {peak:.0f} MB\n")
        tokens = _tokenise(folder / "data.jsonl")
        print(json.dumps(_result(folder, planted, (bare, hone, peaks), tokens)))


def _room() -> Path:
    store = Store.from_environment().root
    store.mkdir(parents=True, exist_ok=True)
    return store.resolve()


def _write(path: Path, size: int) -> list[int]:
    """Write the file; the lines of the near copies."""
    planted, line, written = [], 0, 0
    with path.open("w", encoding="utf-8") as file:
        for record, is_near in _records():
            line += 1
            written += file.write(record)
            if is_near:
                planted.append(line)
            if written >= size:
                return planted
    raise AssertionError("there is always one more record")


def _records() -> Iterator[tuple[str, bool]]:
    drawing = random.Random(SEED)
    words = _words(drawing)
    kept: list[tuple[list[str], list[str]]] = []
    while True:
        kind = drawing.random() if len(kept) == KEPT else 1
        if kind < EXACT + NEAR:
            question, answer = drawing.choice(kept)
            is_near = kind >= EXACT
            if is_near:
                answer = [next(words) if drawing.random() < CHANGED else word for word in answer]
        else:
            question = list(islice(words, drawing.randint(20, 60)))
            answer = list(islice(words, drawing.randint(95, 285)))
            is_near = False
            if len(kept) < KEPT:
                kept.append((question, answer))
        yield _line(question, answer), is_near


def _words(drawing: random.Random) -> Iterator[str]:
    """Made-up words without end, each as frequent as in a language (Zipf)."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(drawing.choices(letters, k=drawing.randint(2, 9))) for _ in range(30_000)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))
    while True:
        yield from drawing.choices(words, cum_weights=weights, k=100_000)


def _line(question: list[str], answer: list[str]) -> str:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": " ".join(question)},
        {"role": "assistant", "content": " ".join(answer)},
    ]
    return json.dumps({"messages": messages}) + "\n"


def _prepare(folder: Path, turn: int) -> list[str]:
    """In a store of its own, since the same data is never prepared twice."""
    store = str(folder / f"store-{turn}")
    return [sys.executable, "-m", "hone_trainer", "--store", store, "prepare", str(folder / "run.yaml")]


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds, and the most memory (MB) that it and its processes had together."""
    start, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        top = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _memory(top))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return time.monotonic() - start, peak


def _memory(top: psutil.Process) -> float:
    found = 0
    with suppress(psutil.NoSuchProcess):
        for process in [top, *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                found += process.memory_info().rss
    return found / 10**6


def _tokenise(path: Path) -> tuple[float, int]:
    """Seconds, and bytes that were tokenised."""
    base = import_base(locate(DEMO, None), Store.from_environment())
    tokeniser = Tokeniser(base, (base.path / CHAT_TEMPLATE).read_text(encoding="utf-8"))
    lines, size = [], 0
    with path.open("rb") as file:
        for line in file:
            lines.append(line.rstrip()[:-1] + b', "source": "data.jsonl:1"}\n')
            size += len(line)
            if size >= TOKENISED:
                break
    start = time.monotonic()
    problems = [length.problem for length in tokeniser.measure(lines, len(lines)) if length.problem]
    assert not problems, problems[0]
    return time.monotonic() - start, size


def _result(
    folder: Path,
    planted: list[int],
    measured: tuple[list[float], list[float], list[float]],
    tokens: tuple[float, int],
) -> dict[str, Any]:
    bare, hone, peaks = measured
    size = (folder / "data.jsonl").stat().st_size
    [dataset] = Path(folder, "store-1", "datasets").glob("data-*")
    found = open_artifact(dataset, "dataset").path
    report = json.loads((found / "report.json").read_text(encoding="utf-8"))
    removed = [json.loads(line) for line in (found / "removed.jsonl").open(encoding="utf-8")]
    gone = {row["line"] for row in removed}
    ratios = [ours / theirs for ours, theirs in zip(hone, bare, strict=True)]
    return {
        "bench": "prepare",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "megabytes": size // 10**6,
        "records": report["read"],
        "mb_per_s": round(size / 10**6 / statistics.median(hone), 1),
        "peak_rss_mb": round(max(peaks)),
        "bare_seconds": round(statistics.median(bare), 1),
        "ratio_to_parse": round(statistics.median(ratios), 2),
        "ratios_to_parse": [round(ratio, 2) for ratio in ratios],
        "tokenize_ratio": round(tokens[0] / (statistics.median(bare) * tokens[1] / size), 1),
        "near_dup_recall": round(sum(line in gone for line in planted) / max(1, len(planted)), 4),
        "removed": dict(sorted(report["sources"][0]["removed"].items())),
    }


if __name__ == "__main__":
    main()
