"""Training: Hone's defaults against TRL's SFTTrainer, in turns of the same run (`make bench`).

Both sides train SmolLM2-135M-Instruct by LoRA (r 16, alpha 32, every linear layer but the head) for one epoch
on the same records, float32 on the CPU, no gradient checkpointing, learning rate 2e-4 falling linearly,
weight decay 0, gradients clipped to norm 1, seed 3407, 8 records an optimiser step, loss on the answers'
tokens.
- Hone: `hone-trainer train` with its defaults and batch_size 2 × gradient_accumulation_steps 4.
- TRL: bench/trl_train.py, SFTTrainer with its own collator, batch 2 × 4, on prompt and completion.

The records are questions and answers of the examples, put together to lengths that are log-normal as chats'
are: median 128 tokens, sigma 0.7, at most 1,024 tokens; seed 42. Tokens a second count prompts and answers,
not padding, over the training loop alone: Hone's evaluation and checkpoints are left out, TRL is told to make
none. Both adapters' losses on the same 16 other records come from the same function. Peak memory is the whole
process's (ru_maxrss), which on Hone's side also prepares the data, evaluates, and makes the probes.
`gemm_fraction` is the share of the machine's matrix-multiplication peak, measured between the turns, that the
training's own multiplications come to.

Run it on an idle machine. The last line printed is JSON, with medians.
"""

import argparse
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from hone_contract.artifact import open_artifact
from hone_contract.store import Store
from hone_trainer.answering.scoring import mean_loss, score
from hone_trainer.chat.chat_templates import load_tokenizer
from hone_trainer.chat.conversation import Sequence, to_sequence
from hone_trainer.models import open_pair
from hone_trainer.record import load_records

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
BASE = "demo:smollm2-135m-instruct"
HELD_OUT = 16
RANK, BATCH, ACCUMULATION, LEARNING_RATE, SEED = 16, 2, 4, 2e-4, 3407


@dataclass(frozen=True)
class Turn:
    """One side's training."""

    tokens: float
    tokens_per_second: float
    peak_rss_mb: float
    eval_loss: float


def main() -> None:
    options = _options()
    store = Store.from_environment()
    _python(["-m", "hone_trainer", "--store", str(store.root), "import-base", BASE])
    with tempfile.TemporaryDirectory(dir=store.root.resolve()) as name:
        folder = Path(name)
        base = store.base(BASE).resolve()
        _write_records(folder, options.records, base)
        hone, trl, peaks, learned = [], [], [], 0.0
        for turn in range(1, options.turns + 1):
            peaks.append(_gemm_peak())
            trained, held_out, learned = _hone(folder / f"hone-{turn}", base)
            hone.append(trained)
            trl.append(_trl(folder / f"trl-{turn}", base, held_out))
            peaks.append(_gemm_peak())
            sys.stderr.write(f"turn {turn}: Hone {hone[-1]}\n        TRL  {trl[-1]}\n")
        print(json.dumps(_result(hone, trl, max(peaks), _flops_a_token(base, learned))))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hone's training against TRL's, in turns.")
    parser.add_argument("--records", type=int, default=96, help="to learn from (default: 96)")
    parser.add_argument("--turns", type=int, default=3, help="of both sides (default: 3)")
    return parser.parse_args()


# -- the records -----------------------------------------------------------------------------------


def _write_records(folder: Path, count: int, base: Path) -> None:
    rng = random.Random(42)
    pairs = _pairs()
    tokenizer = AutoTokenizer.from_pretrained(base)
    records = [_record(pairs, rng, tokenizer) for _ in range(count + HELD_OUT)]
    for name, part in (("train", records[:count]), ("eval", records[count:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in part))


def _pairs() -> list[tuple[str, str]]:
    """Short and long questions with their answers."""
    found = []
    for file in (EXAMPLES / "hone-faq" / "train.jsonl", EXAMPLES / "support-api" / "train.jsonl"):
        for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            user, assistant = (record["messages"][place]["content"] for place in (-2, -1))
            if isinstance(user, str) and isinstance(assistant, str) and "tools" not in record:
                found.append((user, assistant))
    for line in (EXAMPLES / "fashion-style" / "records.jsonl").read_text(encoding="utf-8").splitlines():
        if line.strip():
            record = json.loads(line)
            found.append((f"{record['input']} {record['context']}", record["completion"]))
    return found


def _record(
    pairs: list[tuple[str, str]], rng: random.Random, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Questions in one turn, their answers in the next; the last answer ends at the length drawn."""
    wanted = int(min(1024, rng.lognormvariate(math.log(128), 0.7)))
    questions: list[str] = []
    answers: list[str] = []
    room = wanted
    while not answers or room > 0:
        question, answer = rng.choice(pairs)
        room -= len(tokenizer.encode(question))
        kept = tokenizer.encode(answer)[: max(8, room)]
        room -= len(kept)
        questions.append(question)
        answers.append(tokenizer.decode(kept))
    messages = [
        {"role": "user", "content": "\n".join(questions)},
        {"role": "assistant", "content": "\n".join(answers)},
    ]
    return {"messages": messages}


# -- the two sides ---------------------------------------------------------------------------------


def _hone(folder: Path, base: Path) -> tuple[Turn, list[Sequence], float]:
    """A training in a store of its own, the held-out records as it tokenised them, and the share learned."""
    own = Store(folder)
    own.base(BASE).parent.mkdir(parents=True)
    shutil.copytree(base, own.base(BASE), copy_function=os.link)
    spec = folder / "run.yaml"
    spec.write_text(
        f"model: {{name: '{BASE}'}}\n"
        "data:\n  train: ../train.jsonl\n  eval: ../eval.jsonl\n"
        "  clean: {duplicates: false, near_duplicates: null}\n"
        f"lora: {{r: {RANK}, alpha: {2 * RANK}}}\n"
        f"training: {{epochs: 1, batch_size: {BATCH}, gradient_accumulation_steps: {ACCUMULATION}, "
        f"learning_rate: {LEARNING_RATE}, seed: {SEED}}}\n"
    )
    output, memory = _python(["-m", "hone_trainer", "--store", str(folder), "train", str(spec)])
    adapter = open_artifact(own.adapter(output), "adapter")
    dataset = own.dataset(adapter.manifest.lineage["dataset"].id)
    tokenizer = load_tokenizer(adapter.path, (adapter.path / "chat_template.jinja").read_text())
    held_out = [to_sequence(tokenizer, record, 2048) for record in load_records(dataset / "eval.jsonl")]
    report = json.loads((dataset / "report.json").read_text())["tokens"]
    metrics = adapter.manifest.metrics
    loss = _loss(adapter.path, base, held_out)
    turn = Turn(metrics["tokens"], metrics["tokens_per_second"], memory, loss)
    return turn, held_out, report["learned_per_epoch"] / report["per_epoch"]


def _trl(folder: Path, base: Path, held_out: list[Sequence]) -> Turn:
    settings = {
        "base": str(base),
        "data": str(folder.parent / "train.jsonl"),
        "output": str(folder),
        "r": RANK,
        "batch_size": BATCH,
        "accumulation": ACCUMULATION,
        "learning_rate": LEARNING_RATE,
        "seed": SEED,
    }
    output, memory = _python([str(ROOT / "bench" / "trl_train.py"), json.dumps(settings)])
    told = json.loads(output)
    return Turn(told["tokens"], told["tokens_per_second"], memory, _loss(folder, base, held_out))


def _loss(adapter: Path, base: Path, sequences: list[Sequence]) -> float:
    return mean_loss(score(open_pair(adapter, base, torch.float32).tuned, sequences))


def _python(arguments: list[str]) -> tuple[str, float]:
    """Run it to its end; its last line of output, and the most memory that it held, in MB."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(errors.read()[-3000:])
        output.seek(0)
        return (output.read().splitlines() or [""])[-1], usage.ru_maxrss * 1024 / 1e6


# -- what the machine could do ---------------------------------------------------------------------


def _gemm_peak(size: int = 1536, repeats: int = 12) -> float:
    """Best of some float32 multiplications of square matrices, in FLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return float(2 * size**3 / min(seconds))


def _flops_a_token(base: Path, learned: float) -> float:
    """Multiplications and additions of forward and backward pass, attention's scores left out.

    Frozen layers take part twice (output, gradient of the input), adapters three times, and the head for the
    learned tokens only.
    """
    config = AutoConfig.from_pretrained(base)
    width, inner = config.hidden_size, config.intermediate_size
    narrow = width * config.num_key_value_heads // config.num_attention_heads
    layers = [(width, width), (width, narrow), (width, narrow), (width, width)]
    layers += [(width, inner), (width, inner), (inner, width)]
    frozen = sum(into * out for into, out in layers) * config.num_hidden_layers
    adapters = sum(RANK * (into + out) for into, out in layers) * config.num_hidden_layers
    head = config.vocab_size * width * learned
    return float(2 * (2 * frozen + 3 * adapters + 2 * head))


def _result(hone: list[Turn], trl: list[Turn], peak: float, flops: float) -> dict[str, object]:
    ratios = [
        ours.tokens_per_second / theirs.tokens_per_second for ours, theirs in zip(hone, trl, strict=True)
    ]
    speed = statistics.median(turn.tokens_per_second for turn in hone)
    return {
        "bench": "train",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "tokens": hone[0].tokens,
        "baseline_tokens": trl[0].tokens,
        "tokens_per_s": round(speed, 1),
        "baseline_tokens_per_s": round(statistics.median(turn.tokens_per_second for turn in trl), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "gemm_peak_gflop_s": round(peak / 1e9, 1),
        "gemm_fraction": round(speed * flops / peak, 3),
        "eval_loss": round(statistics.median(turn.eval_loss for turn in hone), 4),
        "baseline_eval_loss": round(statistics.median(turn.eval_loss for turn in trl), 4),
        "peak_rss_mb": round(statistics.median(turn.peak_rss_mb for turn in hone)),
        "baseline_peak_rss_mb": round(statistics.median(turn.peak_rss_mb for turn in trl)),
    }


if __name__ == "__main__":
    main()
