"""The tokenizer that an adapter from elsewhere was trained with."""

import json
import shutil
from pathlib import Path
from typing import Any

from hone_contract.model_files import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_FILES, sha256_of
from hone_merger.adapter_config import read_json
from hone_merger.merge import copy_tokenizer

_CONFIG = "tokenizer_config.json"


def tokenizer_digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of what the folder brings; empty when it has no tokenizer and its base's is meant."""
    if not (folder / TOKENIZER).is_file():
        return {}
    return {name: sha256_of(folder, name) for name in TOKENIZER_FILES if (folder / name).is_file()}


def take_tokenizer(folder: Path, base: Path, target: Path) -> None:
    """The folder's tokenizer and chat template; the base's where it has none.

    Tools save them with the adapter when tokens were added or the template was changed. The class stays the
    base's: transformers 5 writes `TokenizersBackend`, which older servers and converters do not know.
    """
    if not tokenizer_digests(folder):
        copy_tokenizer(base, target)
        return
    copy_tokenizer(folder, target)
    config, known = _read(target / _CONFIG), _read(base / _CONFIG)
    if not (target / CHAT_TEMPLATE).is_file():
        # Where transformers 4 has it.
        own = config.pop("chat_template", None)
        if isinstance(own, str):
            (target / CHAT_TEMPLATE).write_text(own, encoding="utf-8")
        elif (base / CHAT_TEMPLATE).is_file():
            shutil.copyfile(base / CHAT_TEMPLATE, target / CHAT_TEMPLATE)
    if "tokenizer_class" in known:
        config["tokenizer_class"] = known["tokenizer_class"]
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (target / _CONFIG).write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
