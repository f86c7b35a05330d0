"""What well-known bases take on a GPU: the estimate of `hone-trainer plan`, as a table (docs/scaling-out.md).

No weights are needed: `plan` reads the headers of their files, and those are written here from the shapes
in each base's config.json on the Hub. The run: records of 2,048 tokens, steps of 16 of them, LoRA of rank 16,
bfloat16 with gradient checkpointing as on a GPU. The last column is two bytes a parameter, which is what a
fused model takes before vLLM's cache. It is an estimate throughout, so it needs no GPU and no idle machine.

    python bench/sizing.py          the table in Markdown, and one JSON line last
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from hollow_bases import plan_of

from hone_trainer.sizing.estimate import METHODS, Estimate, estimate
from hone_trainer.sizing.machine import CARDS, Device

GPU = Device("a GPU of 80 GB", True, CARDS[2].memory)
TOKENS, RECORDS = 2048, 1000
TRAINING = {"batch_size": 4, "gradient_accumulation_steps": 4, "max_length": TOKENS}
# Hidden size, MLP width, layers, heads, key-value heads, vocabulary, whether the head is the embedding.
BASES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": (896, 4864, 24, 14, 2, 151_936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": (1536, 8960, 28, 12, 2, 151_936, True),
    "Qwen/Qwen2.5-7B-Instruct": (3584, 18944, 28, 28, 4, 152_064, False),
    "meta-llama/Llama-3.1-8B-Instruct": (4096, 14336, 32, 32, 8, 128_256, False),
    "Qwen/Qwen2.5-32B-Instruct": (5120, 27648, 64, 40, 8, 152_064, False),
    "meta-llama/Llama-3.1-70B-Instruct": (8192, 28672, 80, 64, 8, 128_256, False),
}


def main() -> None:
    found = {name: _estimate(name) for name in BASES}
    print("\n".join(_table(found)))
    machine_free = {name: _figures(each) for name, each in found.items()}
    print(json.dumps({"bench": "sizing", "bases": machine_free}))


def _estimate(name: str) -> Estimate:
    hidden, wide, layers, heads, shared, vocabulary, tied = BASES[name]
    config = {
        "model_type": "qwen2" if "Qwen" in name else "llama",
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }
    with tempfile.TemporaryDirectory() as folder:
        return estimate(plan_of(Path(folder), config, [TOKENS] * RECORDS, training=TRAINING), GPU)


def _figures(found: Estimate) -> dict[str, Any]:
    memory = {method: round(found.on_gpu[method].total / 1e9, 1) for method in METHODS}
    return {"parameters": found.parameters, "memory_gb": memory, "gpus": found.gpus}


def _table(found: dict[str, Estimate]) -> list[str]:
    """One line for each base: memory of a run by its method, and the GPUs that LoRA takes."""
    lines = [
        "| base | LoRA | QLoRA | full | LoRA on 24 GB | on 80 GB | served |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        totals = " | ".join(f"{each.on_gpu[method].total / 1e9:.0f} GB" for method in METHODS)
        counts = " | ".join(_count(each.gpus[card.size]["lora"]) for card in (CARDS[0], CARDS[2]))
        lines.append(f"| {name} | {totals} | {counts} | {2 * each.parameters / 1e9:.0f} GB |")
    return lines


def _count(gpus: int | None) -> str:
    return "none" if gpus is None else str(gpus)


if __name__ == "__main__":
    main()
