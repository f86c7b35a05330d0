"""Weights as full fine-tuning of a tiny base seals them, with the probes that the trainer takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from merger_tiny import logprobs
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.manifest import Source
from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, sha256_of
from hone_contract.probes import Probe, Probes, write_probes
from hone_contract.store import Store
from hone_merger.merge import copy_tokenizer

QUESTIONS = ("the sky is", "the grass is", "who are you?")


def weights_folder(folder: Path, base: Path, *, shard: str = "5GB", move: float = 0.05) -> Path:
    """The base with every weight moved by noise (standard deviation `move`), in its own number format."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    torch.manual_seed(4)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * move)
    model.save_pretrained(folder, max_shard_size=shard)
    copy_tokenizer(base, folder)
    return folder


def seal_weights(folder: Path, base: Artifact, store: Store, run_id: str, *, swap: bool = False) -> Artifact:
    """Seal the folder; with `swap` its probes take the base for the tuned model."""
    sources = (folder, base.path) if swap else (base.path, folder)
    models = [AutoModelForCausalLM.from_pretrained(each, dtype="float32").eval() for each in sources]
    with draft(store.weights(run_id), {}) as partial:
        for path in folder.iterdir():
            (partial / path.name).write_bytes(path.read_bytes())
        write_probes(partial, _probes(folder, *models))
        lineage = {
            "base": base.source,
            "dataset": Source(id="data-0123456789", digest="0" * 64),
            "spec": Source(id=run_id, digest="1" * 64),
        }
        return seal(partial, "weights", run_id, lineage=lineage)


def edit_model(
    folder: Path, *, without: tuple[str, ...] = (), add: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Take tensors out of `model.safetensors`, put others in."""
    tensors = load_file(folder / "model.safetensors") | dict(add or {})
    kept = {name: tensor for name, tensor in tensors.items() if name not in without}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _probes(folder: Path, base: Any, tuned: Any) -> Probes:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    probes = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        said = tokenizer("blue and green.", add_special_tokens=False)["input_ids"]
        probes.append(
            Probe(
                messages=messages,
                prompt_token_ids=prompt,
                continuation_token_ids=said,
                base=logprobs(base, prompt, said),
                adapter=logprobs(tuned, prompt, said),
            )
        )
    return Probes(
        tokenizer_sha256=sha256_of(folder, TOKENIZER),
        chat_template_sha256=sha256_of(folder, CHAT_TEMPLATE),
        probes=probes,
    )
