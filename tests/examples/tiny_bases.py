"""Random models of the architectures that the run files name, as small as 4-bit blocks of 64 allow."""

from pathlib import Path
from typing import Any

import torch
from trainer_tiny import chat_tokenizer, save_base
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

WINDOW = 256
"""Tokens that Mistral's attention looks back; the stylist's records are longer."""
_SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def mistral(folder: Path) -> Path:
    """With a sliding window, and without a chat template, as Mistral 7B v0.1."""
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = None
    config = MistralConfig(vocab_size=len(tokenizer), sliding_window=WINDOW, **_SHAPE)
    return _save(folder, MistralForCausalLM, config, tokenizer)


def qwen2(folder: Path, *, tied: bool) -> Path:
    """The 7B models of its kind have a head of their own, the 1.5B ones do not."""
    tokenizer = chat_tokenizer()
    config = Qwen2Config(vocab_size=len(tokenizer), tie_word_embeddings=tied, **_SHAPE)
    return _save(folder, Qwen2ForCausalLM, config, tokenizer)


def llama(folder: Path) -> Path:
    """As SmolLM2 is, with tied embeddings."""
    tokenizer = chat_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **_SHAPE)
    return _save(folder, LlamaForCausalLM, config, tokenizer)


def _save(folder: Path, kind: Any, config: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(1)
    return save_base(folder, kind(config).eval(), tokenizer)
