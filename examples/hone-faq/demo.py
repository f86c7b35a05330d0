"""`make demo`: from nothing to a chat with a model that learned something, natively, on a CPU.

Each stage is the command that a user would type, run as a process of its own. The results go to
`demo.json` in the store. Exits non-zero when the model did not learn or the gate did not pass.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import DefaultHttpxClient, OpenAI
from rich.console import Console
from rich.table import Table
from score import Fact, accuracy, correct, load_facts

from hone_contract.artifact import open_artifact
from hone_contract.store import Store

HERE = Path(__file__).parent
SPEC = HERE / "run.yaml"
BASE = "demo:smollm2-135m-instruct"
MAX_TOKENS = 40
BASE_AT_MOST, TUNED_AT_LEAST = 0.15, 0.80

console = Console(stderr=True)


@dataclass
class Results:
    """What `demo.json` holds."""

    model: str = ""
    base_accuracy: float = 0.0
    tuned_accuracy: float = 0.0
    questions: int = 0
    parity_max_abs_delta: float | None = None
    gate: dict[str, Any] = field(default_factory=dict)
    eval_loss_before: float = 0.0
    eval_loss_after: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    """Per stage. A stage whose result was in the store already only had to find it."""
    reused: list[str] = field(default_factory=list)
    """Those stages."""


@dataclass(frozen=True)
class Server:
    """One that is up and proven."""

    url: str
    pid: int


def main() -> int:
    options = _parse()
    store = Store.from_environment()
    facts = load_facts(HERE / "facts.yaml")
    results = Results()
    (store.root / "demo.json").unlink(missing_ok=True)
    # What was started is stopped, also when the demo itself is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    model = _make_model(store, results)
    base_answers = _ask_base(store, facts, results)
    with _server(store, results, keep=options.keep) as server:
        tuned_answers = _ask_tuned(server.url, facts, results)
    _judge(facts, base_answers, tuned_answers, results)
    _read_losses(store, model, results)
    (store.root / "demo.json").write_text(json.dumps(asdict(results), indent=2) + "\n", encoding="utf-8")
    _show(facts, base_answers, tuned_answers, results)
    _tell_how_to_go_on(server if options.keep else None)
    return _exit_code(results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the server up")
    return parser.parse_args()


def _make_model(store: Store, results: Results) -> str:
    """Import, prepare, train and merge; returns the run's id."""
    with _stage("import", results):
        _run("hone_trainer", "import-base", BASE)
    with _stage("prepare", results):
        _run("hone_trainer", "prepare", str(SPEC))
    before = set(store.root.glob("adapters/*"))
    with _stage("train", results):
        run_id = _run("hone_trainer", "train", str(SPEC))
    if store.adapter(run_id) in before:
        results.reused.append("train")
    before = set(store.root.glob("models/*/*"))
    with _stage("merge", results):
        results.model = _run("hone_merger", "merge", run_id)
    if store.root / "models" / results.model in before:
        results.reused.append("merge")
    return run_id


def _ask_base(store: Store, facts: list[Fact], results: Results) -> list[str]:
    answers = store.root / "demo-base-answers.jsonl"
    with _stage("ask_base", results):
        arguments = (store.base(BASE).name, str(HERE / "held_out.jsonl"), "--output", str(answers))
        _run("hone_trainer", "generate", *arguments, "--max-tokens", str(MAX_TOKENS))
    lines = answers.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(facts)
    return [json.loads(line)["messages"][-1]["content"] for line in lines]


@contextmanager
def _server(store: Store, results: Results, *, keep: bool) -> Iterator[Server]:
    """A proven server on a free loopback port; stopped at the end unless it is kept or refused."""
    log = store.root / "demo-server.log"
    with log.open("w") as file:
        command = [
            sys.executable,
            "-m",
            "hone_server",
            "--model",
            results.model.partition("/")[0],
            "--port",
            "0",
        ]
        process = subprocess.Popen(command, stderr=file, stdout=file, start_new_session=True)
    done = False
    try:
        with _stage("serve", results):
            url = _wait_until_ready(process, log, results)
        yield Server(url, process.pid)
        done = True
    finally:
        if not (keep and done):
            process.terminate()
            process.wait(timeout=60)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, results: Results) -> str:
    url = None
    while process.poll() is None:
        time.sleep(0.2)
        url = url or _address(log)
        if url is None:
            continue
        answer = _ready(url)
        if answer["ready"]:
            results.gate = answer["gate"]
            results.parity_max_abs_delta = answer["gate"]["max_abs_delta"]
            return url
    raise SystemExit(
        f"the server left with exit code {process.returncode}; the last lines of {log}:\n{_tail(log)}"
    )


def _ready(url: str) -> dict[str, Any]:
    """What the server says of itself; a machine that is busy may make it late. No proxy stands before it."""
    try:
        answer: dict[str, Any] = httpx.get(f"{url}/ready", trust_env=False).json()
    except httpx.TimeoutException:
        return {"ready": False}
    return answer


def _address(log: Path) -> str | None:
    for line in log.read_text().splitlines():
        if '"event":"listening"' in line:
            data = json.loads(line)["data"]
            return f"http://{data['host']}:{data['port']}"
    return None


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-15:])


def _ask_tuned(url: str, facts: list[Fact], results: Results) -> list[str]:
    """The held-out questions, eight at a time, by the OpenAI SDK as anyone would use it."""
    client = OpenAI(
        base_url=f"{url}/v1",
        api_key=_key(),
        http_client=DefaultHttpxClient(trust_env=False),
        _strict_response_validation=True,
    )
    name = results.model.partition("/")[0]

    def ask(fact: Fact) -> str:
        answer = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": fact.held_out}],
            max_tokens=MAX_TOKENS,
            temperature=0,
        )
        return answer.choices[0].message.content or ""

    with _stage("ask_tuned", results), ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, facts))


def _key() -> str:
    """The first of the keys that the server asks for."""
    file = os.environ.get("HONE_API_KEY_FILE")
    text = os.environ.get("HONE_API_KEY") or (Path(file).read_text(encoding="utf-8") if file else "")
    return text.replace("\n", ",").partition(",")[0].strip() or "none"


def _judge(facts: list[Fact], base: list[str], tuned: list[str], results: Results) -> None:
    keys = [fact.key for fact in facts]
    results.questions = len(facts)
    results.base_accuracy = accuracy(base, keys)
    results.tuned_accuracy = accuracy(tuned, keys)


def _read_losses(store: Store, run_id: str, results: Results) -> None:
    metrics = open_artifact(store.adapter(run_id), "adapter").manifest.metrics
    results.eval_loss_before = metrics["eval_loss_before"]
    results.eval_loss_after = metrics["eval_loss_after"]


def _show(facts: list[Fact], base: list[str], tuned: list[str], results: Results) -> None:
    table = Table("question that was never trained", "base model", "tuned model", show_lines=True)
    for fact, before, after in list(zip(facts, base, tuned, strict=True))[:: len(facts) // 8]:
        table.add_row(fact.held_out, _mark(before, fact), _mark(after, fact))
    console.print(table)
    scores = Table("", "base", "tuned", title=f"{results.questions} held-out questions")
    scores.add_row("right answers", f"{results.base_accuracy:.0%}", f"{results.tuned_accuracy:.0%}")
    scores.add_row("loss", f"{results.eval_loss_before:.3f}", f"{results.eval_loss_after:.3f}")
    console.print(scores)
    console.print(f"gate: {results.gate['reason']}, max |Δ logprob| {results.parity_max_abs_delta:.1e}")
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results.seconds.items())
    reused = f" (found in the store: {', '.join(results.reused)})" if results.reused else ""
    console.print(f"time: {stages}; {sum(results.seconds.values()):.0f} s in all{reused}")


def _mark(answer: str, fact: Fact) -> str:
    colour = "green" if correct(answer, fact.key) else "red"
    return f"[{colour}]{answer.strip()[:200].replace('[', chr(92) + '[')}[/]"


def _tell_how_to_go_on(server: Server | None) -> None:
    if server is None:
        console.print("chat on:  make demo KEEP=1   (nothing is trained again)")
    else:
        console.print(f"chat on:  .venv/bin/hone-chat --base-url {server.url}/v1")
        console.print(f"stop it:  kill {server.pid}")


def _exit_code(results: Results) -> int:
    if results.base_accuracy > BASE_AT_MOST or results.tuned_accuracy < TUNED_AT_LEAST:
        console.print(
            f"[red]the model did not learn: wanted base ≤ {BASE_AT_MOST}, tuned ≥ {TUNED_AT_LEAST}[/]"
        )
        return 1
    return 0 if results.gate["passed"] else 1


@contextmanager
def _stage(name: str, results: Results) -> Iterator[None]:
    console.rule(f"[bold]{name.replace('_', ' ')}", align="left")
    start = time.monotonic()
    yield
    results.seconds[name] = round(time.monotonic() - start, 1)


def _run(module: str, *arguments: str) -> str:
    """One of Hone's commands, its progress shown as it comes; returns the last line it printed."""
    console.print(f"[dim]{module.replace('_', '-')} {' '.join(arguments)}[/]")
    finished = subprocess.run([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise SystemExit(finished.returncode)
    return (finished.stdout.splitlines() or [""])[-1]


if __name__ == "__main__":
    sys.exit(main())
