"""One merge in a process of its own, for bench/merge.py; its last line is JSON with seconds and peak memory.

merge_side.py hone STORE RUN_ID   |   merge_side.py peft BASE ADAPTER OUTPUT
"""

import json
import sys
import time
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_merger.merge import merge
from hone_merger.plan import make_plan


def main() -> None:
    side, *arguments = sys.argv[1:]
    told = _hone(*arguments) if side == "hone" else _peft(*arguments)
    print(json.dumps({**told, "rss": _peak()}))


def _peak() -> float:
    """MB. Not ru_maxrss, which counts what the process was begun from."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def _hone(root: str, run_id: str) -> dict[str, float]:
    store = Store(Path(root))
    start = time.perf_counter()
    model = merge(make_plan(store, run_id, "bench"), store, Reporter("merger"))
    seconds = time.perf_counter() - start
    metrics = model.manifest.metrics
    verify, probe = metrics["verify_seconds"], metrics["probe_seconds"]
    return {"wall": seconds - verify - probe, "verify": verify, "probe": probe}


def _peft(base: str, adapter: str, output: str) -> dict[str, float]:
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
    return {"wall": time.perf_counter() - start}


if __name__ == "__main__":
    main()
