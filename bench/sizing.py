"""What well-known bases take on a GPU: the estimate of `hone-trainer plan`, as a table (docs/scaling-out.md).

No weights are needed: `plan` reads the headers of their files, and those are written here from the shapes
in each base's config.json on the Hub. The run: records of 2,048 tokens, steps of 16 of them, LoRA of rank 16,
bfloat16 with gradient checkpointing as on a GPU. The last column is two bytes a parameter, which is what a
fused model takes before vLLM's cache. It is an estimate throughout, so it needs no GPU and no idle machine.

    python bench/sizing.py          the table in Markdown, and one JSON line last
"""

import json
import struct
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hone_contract.artifact import Artifact
from hone_contract.manifest import FileEntry, Kind, Manifest
from hone_contract.run_spec import RunSpec
from hone_trainer.data.report import Lengths
from hone_trainer.plan import Plan
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
    with tempfile.TemporaryDirectory() as folder:
        base, dataset = Path(folder) / "base", Path(folder) / "data"
        for each in (base, dataset):
            each.mkdir()
        size = _write_headers(base, name)
        tokens = Lengths("base", [TOKENS] * RECORDS).to_json()
        report = {"train_records": RECORDS, "eval_records": 0, "tokens": tokens}
        (dataset / "report.json").write_text(json.dumps(report), encoding="utf-8")
        weights = FileEntry(path="model.safetensors", size=size, sha256="0" * 64)
        spec = RunSpec.model_validate({"model": {"name": name}, "training": TRAINING})
        return estimate(
            Plan(spec, _artifact(base, "base", weights), _artifact(dataset, "dataset"), "", "run"), GPU
        )


def _artifact(path: Path, kind: Kind, *files: FileEntry) -> Artifact:
    now = datetime.now(UTC).replace(microsecond=0)
    return Artifact(path, Manifest(kind=kind, id=path.name, created_at=now, files=list(files)))


def _write_headers(folder: Path, name: str) -> int:
    """config.json, and the beginning of the weights' file; returns the bytes that all of it would have."""
    hidden, wide, layers, heads, shared, vocabulary, tied = BASES[name]
    config: dict[str, Any] = {
        "model_type": "qwen2" if "Qwen" in name else "llama",
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header, end = {}, 0
    for tensor, shape in _shapes(config).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return end


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a Llama, or of a Qwen2, which has biases in attention."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    key = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    attention = {"q_proj": (hidden, hidden), "k_proj": (key, hidden), "v_proj": (key, hidden)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        for name, shape in attention.items():
            shapes[f"{layer}.self_attn.{name}.weight"] = shape
            if config["model_type"] == "qwen2":
                shapes[f"{layer}.self_attn.{name}.bias"] = shape[:1]
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{layer}.mlp.gate_proj.weight"] = shapes[f"{layer}.mlp.up_proj.weight"] = (wide, hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, wide)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{norm}.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


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
