"""Names of the files in a base, an adapter and a model, as transformers, PEFT and vLLM know them."""

import hashlib
from pathlib import Path

from hone_contract.errors import BadInput

CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER = "tokenizer.json"

TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    CHAT_TEMPLATE,
)
"""What travels with every adapter and model, byte for byte, from the base: text must become the same
tokens wherever it is rendered. Only `tokenizer.json` and the chat template must exist; a chat template that
the run spec chooses travels in the place of the base's."""


def sha256_of(folder: Path, name: str) -> str:
    """SHA-256 (hex) of one of the files above. Raises BadInput when it is missing."""
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadInput(
            f"{folder} has no {name}; a chat model needs one, take an instruction-tuned base"
        ) from None
