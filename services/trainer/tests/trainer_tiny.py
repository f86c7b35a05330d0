"""Tiny real bases: a byte-level BPE tokenizer, a chat template, and two layers of random weights."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

HUB_NAME = "Qwen/Qwen2.5-1.5B-Instruct"
END = "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_TEXT = "system user assistant: what is the colour of the sky? The sky is blue, the grass is green."
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_SHAPE: dict[str, Any] = {
    **SIZES,
    # Wide enough for the model to have opinions, so that no two tokens are nearly as likely.
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

Turn = tuple[str, str]


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """About 300 tokens, trained on the spot; its template is ChatML."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # As SmolLM2's and Llama 3's do: offsets leave out the space before a word.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=304,
        special_tokens=["<|endoftext|>", "<|im_start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token="<|endoftext|>", chat_template=CHATML
    )


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **_SHAPE)).eval()


def tiny_qwen2(vocabulary: int) -> Qwen2ForCausalLM:
    """Its embeddings are tied, as those of the small Qwen models are."""
    torch.manual_seed(2)
    config = Qwen2Config(vocab_size=vocabulary, tie_word_embeddings=True, **_SHAPE)
    return Qwen2ForCausalLM(config).eval()


def save_base(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversation(*turns: Turn) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def line(*turns: Turn) -> str:
    """One record, as a line of a data file."""
    return json.dumps({"messages": conversation(*turns)}, ensure_ascii=False)


def questions(count: int) -> list[str]:
    """Records that have one answer, which even a tiny model learns."""
    return [
        line(("user", f"What is the colour of thing {number}?"), ("assistant", "The sky is blue."))
        for number in range(count)
    ]


def preference(asked: str, better: str, worse: str) -> str:
    """One preference pair, as a line of a data file as OpenAI has it."""
    pair = {
        "input": {"messages": conversation(("user", asked))},
        "preferred_output": conversation(("assistant", better)),
        "non_preferred_output": conversation(("assistant", worse)),
    }
    return json.dumps(pair, ensure_ascii=False)


def preferences(count: int) -> list[str]:
    """Pairs that are told apart by their first word, of answers of many lengths."""
    return [
        preference(
            f"What is the colour of thing {number}?",
            "Blue" + " is the sky" * (number % 4) + ".",
            "Green" + " is the grass" * (number % 3) + ".",
        )
        for number in range(count)
    ]


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(each + "\n" for each in lines), encoding="utf-8")
    return path


def bytes_of(folder: Path, names: Sequence[str] = ()) -> dict[str, bytes]:
    """Content of a folder's files, or of those named that it has."""
    files = (path for path in folder.iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in files if not names or path.name in names}
