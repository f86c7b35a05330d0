"""Tiny bases of the families that adapters are made for, and adapters of every kind for them."""

from pathlib import Path
from typing import Any

import torch
from merger_tiny import SHAPE, chat_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

FAMILIES: dict[str, tuple[type[PreTrainedModel], type[PretrainedConfig], dict[str, Any]]] = {
    # With biases, which lora_bias needs.
    "Llama": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "Qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": False}),
    "Mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "Qwen3-MoE": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "Mixtral": (
        MixtralForCausalLM,
        MixtralConfig,
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
}
MIXTURES = ("Qwen3-MoE", "Mixtral")
ATTENTION = ["q_proj", "v_proj", "o_proj"]
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8},
    "alpha_pattern": {"o_proj": 32, "v_proj": 3},
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all linear": {"target_modules": "all-linear"},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 3},
    "patterns": PATTERNS,
    "rsLoRA, patterns": {"use_rslora": True, **PATTERNS},
    "DoRA": {"use_dora": True},
    "DoRA, rsLoRA, patterns": {"use_dora": True, "use_rslora": True, **PATTERNS},
    "one layer": {"layers_to_transform": [1]},
    "biases of its layers": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "embeddings": {"target_modules": [*ATTENTION, "embed_tokens"]},
    "embeddings, DoRA": {"target_modules": [*ATTENTION, "embed_tokens"], "use_dora": True},
    "head": {"target_modules": [*ATTENTION, "lm_head"]},
    "norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "both ends": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "tokens": {"trainable_token_indices": [1, 2, 7]},
}
# These need biases, or experts.
SPECIAL: list[tuple[str, str, dict[str, Any]]] = [
    ("Llama", "bias of its own", {"lora_bias": True}),
    ("Qwen2", "bias of its own", {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]}),
    ("Llama", "bias of its own, all biases", {"lora_bias": True, "bias": "all"}),
    *((family, "experts", {"target_parameters": EXPERTS}) for family in MIXTURES),
    *((family, "experts, first", {"target_parameters": EXPERTS[:1]}) for family in MIXTURES),
    *((family, "experts, second", {"target_parameters": EXPERTS[1:]}) for family in MIXTURES),
    *((family, "experts alone", {"target_parameters": EXPERTS, "target_modules": []}) for family in MIXTURES),
]


def family_folder(
    folder: Path, family: str, dtype: torch.dtype, *, shard: str = "5GB", **config: Any
) -> Path:
    """A base of that family."""
    model, settings, own = FAMILIES[family]
    tokenizer = chat_tokenizer()
    torch.manual_seed(5)
    made = model(settings(vocab_size=len(tokenizer), **{**SHAPE, **own, **config})).to(dtype)
    with torch.no_grad():
        # transformers begins biases at 0 and norms at 1, where a mistake would not show.
        for name, weights in made.named_parameters():
            if name.endswith("bias") or weights.dim() == 1:
                weights.add_(torch.randn_like(weights) * 0.1)
    made.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def variant_folder(folder: Path, base: Path, *, rows: int | None = None, **lora: Any) -> Path:
    """A PEFT adapter of the base, everything in it random; with `rows`, of a base with so many embeddings."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **lora}
    model = get_peft_model(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights.add_(torch.randn(weights.shape, generator=generator).to(weights.dtype) * 0.1)
    model.save_pretrained(folder, save_embedding_layers=rows is not None or "auto")
    return folder
