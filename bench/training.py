"""Training speed: Hone against TRL's defaults, in turns of the same run (`make bench`).

Both sides: SmolLM2-135M-Instruct in float32 on the CPU, LoRA r=16 alpha=32 on all linear layers, batches of
8 records of examples/hone-faq, learning rate 1e-3, loss on the answers' tokens only, no gradient
checkpointing, 12 steps. Tokens a second count prompts and answers, not padding, over the training loop alone.
Hone's side is the command `hone-trainer train` with its shuffling and batching by length; TRL's is
bench/trl_defaults.py.
Run it on an idle machine. The last line printed is JSON.
"""

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

from hone_contract.artifact import open_artifact
from hone_contract.store import Store

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "examples" / "hone-faq" / "train.jsonl"
BASE = "demo:smollm2-135m-instruct"
TURNS, STEPS, BATCH = 3, 12, 8
RECORDS = len(DATA.read_text(encoding="utf-8").splitlines())


def main() -> None:
    store = Store.from_environment()
    _command("hone_trainer", "--store", str(store.root), "import-base", BASE)
    hone, trl = [], []
    for turn in range(1, TURNS + 1):
        hone.append(_hone(store))
        trl.append(_trl(store))
        sys.stderr.write(f"turn {turn}: Hone {hone[-1]:.0f}, TRL's defaults {trl[-1]:.0f} tokens/s\n")
    print(json.dumps(_result(hone, trl)))


def _hone(store: Store) -> float:
    """One training in a store of its own, since the same run is never trained twice."""
    with tempfile.TemporaryDirectory(dir=store.root.resolve()) as folder:
        own = Store(Path(folder))
        own.base(BASE).parent.mkdir()
        shutil.copytree(store.base(BASE), own.base(BASE), copy_function=os.link)
        spec = Path(folder, "run.yaml")
        spec.write_text(
            f"model: {{name: '{BASE}'}}\ndata: {{train: '{DATA}', eval_fraction: 0}}\n"
            f"training: {{epochs: {STEPS * BATCH / RECORDS}, batch_size: {BATCH}, learning_rate: 1e-3}}\n"
        )
        run_id = _command("hone_trainer", "--store", folder, "train", str(spec))
        return open_artifact(own.adapter(run_id), "adapter").manifest.metrics["tokens_per_second"]


def _trl(store: Store) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "bench" / "trl_defaults.py")]
        arguments = [str(store.base(BASE).resolve()), str(DATA), str(STEPS), str(BATCH)]
        output = subprocess.run(
            [*command, *arguments],
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ).stdout
    return float(json.loads(output.splitlines()[-1])["tokens_per_second"])


def _result(hone: list[float], trl: list[float]) -> dict[str, object]:
    ratios = [ours / theirs for ours, theirs in zip(hone, trl, strict=True)]
    return {
        "bench": "training",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "hone_tokens_per_second": round(statistics.median(hone), 1),
        "trl_defaults_tokens_per_second": round(statistics.median(trl), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _command(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return (output.splitlines() or [""])[-1]


if __name__ == "__main__":
    main()
