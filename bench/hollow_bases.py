"""Bases of any size that take no room: the headers of their weights are true, the weights are holes."""

import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hone_contract.artifact import Artifact
from hone_contract.manifest import FileEntry, Manifest
from hone_contract.run_spec import RunSpec
from hone_trainer.data.report import Lengths
from hone_trainer.plan import Plan

Shape = tuple[int, ...]

QWEN2_7B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
"""As Qwen/Qwen2-7B's config.json has it; it has 7,615,616,512 parameters."""


def weights_of(config: dict[str, Any]) -> dict[str, Shape]:
    """Shape of each tensor of a Qwen2 or Llama model, by its name; the former has biases in attention."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    key = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for number in range(config["num_hidden_layers"]):
        layer = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
        if config["model_type"] == "qwen2":
            biases = {
                name: shape[:1]
                for name, shape in layer.items()
                if name[-6:] in ("q_proj", "k_proj", "v_proj")
            }
            shapes |= {f"model.layers.{number}.{name}.bias": shape for name, shape in biases.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    return shapes


def write_headers(folder: Path, config: dict[str, Any]) -> int:
    """Write config.json and the header of model.safetensors; returns the weights' bytes, in bfloat16."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header, end = {}, 0
    for name, shape in weights_of(config).items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return end


def _artifact(path: Path, kind: Any, *files: FileEntry) -> Artifact:
    now = datetime.now(UTC).replace(microsecond=0)
    return Artifact(path, Manifest(kind=kind, id=path.name, created_at=now, files=list(files)))


def plan_of(folder: Path, config: dict[str, Any], lengths: list[int], **spec: Any) -> Plan:
    """A run on a base of any size, which is sealed for no one: it would have to be written out."""
    base, dataset = folder / "base", folder / "data"
    for each in (base, dataset):
        each.mkdir()
    size = write_headers(base, config)
    report = {"train_records": len(lengths), "eval_records": 0, "tokens": Lengths("base", lengths).to_json()}
    (dataset / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return Plan(
        RunSpec.model_validate({"model": {"name": "./base"}, **spec}),
        _artifact(base, "base", FileEntry(path="model.safetensors", size=size, sha256="0" * 64)),
        _artifact(dataset, "dataset"),
        "",
        "a-run",
    )
