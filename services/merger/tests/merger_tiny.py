"""Tiny real bases and adapters: two layers of random weights, and LoRA matrices that are not zero."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.manifest import Source
from hone_contract.store import Store

HUB_NAME = "Qwen/Qwen2.5-1.5B-Instruct"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LAYERS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """About 300 tokens, trained on the spot; its template is ChatML."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["system user assistant: the sky is blue, the grass is green."] * 4, trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


def llama_folder(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A model folder whose embeddings are not tied."""
    tokenizer = chat_tokenizer()
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SHAPE)).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def qwen_folder(
    folder: Path, dtype: torch.dtype = torch.bfloat16, *, tie_word_embeddings: bool = True
) -> Path:
    """A model folder as a small Qwen's: tied embeddings, bfloat16."""
    tokenizer = chat_tokenizer()
    torch.manual_seed(2)
    config = Qwen2Config(vocab_size=len(tokenizer), tie_word_embeddings=tie_word_embeddings, **SHAPE)
    Qwen2ForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seal_base(folder: Path, store: Store, name: str) -> Artifact:
    """A base as the trainer seals it."""
    target = store.base(name)
    with draft(target, {"location": str(folder)}) as partial:
        for path in folder.iterdir():
            (partial / path.name).write_bytes(path.read_bytes())
        return seal(partial, "base", target.name, lineage={"source": Source(id=f"folder:{folder.name}")})


def peft_folder(
    folder: Path, base: Path, *, zero: bool = False, embeddings: bool = False, **lora: Any
) -> Path:
    """A plain PEFT adapter of the base in folder `base`, with B random unless `zero`.

    With `embeddings`, the base's own are saved beside it, as PEFT does when they are adapted.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LAYERS, "task_type": "CAUSAL_LM", **lora}
    model = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(3)
    for name, weights in model.named_parameters():
        if weights.requires_grad and ("lora_" not in name or ("lora_B" in name and not zero)):
            torch.nn.init.normal_(weights, std=0.2)
    for config in model.peft_config.values():
        config.base_model_name_or_path = HUB_NAME
    model.save_pretrained(folder, save_embedding_layers=embeddings)
    return folder


def adapted(base: Path, adapter: Path, dtype: torch.dtype | str = "auto") -> Any:
    """The adapter model, made by PEFT."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter).eval()


@torch.inference_mode()
def logprobs(model: Any, prompt: list[int], said: list[int]) -> list[float]:
    """log p of each token that was said, in float32."""
    logits = model(input_ids=torch.tensor([prompt + said])).logits[0].float().log_softmax(-1)
    return [logits[len(prompt) - 1 + index, token].item() for index, token in enumerate(said)]


def edit_weights(
    adapter: Path, *, without: Iterable[str] = (), add: Mapping[str, torch.Tensor] | None = None
) -> None:
    tensors = load_file(adapter / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if name not in set(without)}
    save_file(kept | dict(add or {}), adapter / WEIGHTS, metadata={"format": "pt"})


def edit_json(path: Path, **values: object) -> None:
    """Set these keys; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
