"""config.json and generation_config.json of a merged model: the base's, with what the merge changed."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

CONFIG = "config.json"
GENERATION = "generation_config.json"
# Weights that were in 4 or 8 bits are written whole.
_STRIPPED = ("quantization_config",)


def write_config(
    base: Path, folder: Path, *, dtype: torch.dtype, vocabulary: int | None = None, untied: bool = False
) -> None:
    """Key by key as the base has it, so that whatever loads the base loads the model.

    `vocabulary` None: the base's. `untied`: the output head is no longer the embeddings.
    """
    config: dict[str, Any] = json.loads((base / CONFIG).read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _STRIPPED}
    _set(kept, "torch_dtype" if "torch_dtype" in kept else "dtype", str(dtype).removeprefix("torch."))
    if vocabulary is not None and vocabulary != _get(kept, "vocab_size"):
        _set(kept, "vocab_size", vocabulary)
    if untied:
        kept["tie_word_embeddings"] = False
        if "tie_word_embeddings" in kept.get("text_config", {}):
            kept["text_config"]["tie_word_embeddings"] = False
    (folder / CONFIG).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def write_generation_config(sources: Sequence[Path], folder: Path) -> None:
    """The first source's, ending at every token at which one of the sources ends, by either of its files."""
    configs = [AutoConfig.from_pretrained(source) for source in sources]
    settings = [_generation(source, config) for source, config in zip(sources, configs, strict=True)]
    generation = settings[0]
    ends = [each.eos_token_id for each in settings] + [
        each.get_text_config().eos_token_id for each in configs
    ]
    lists = (each if isinstance(each, list) else [each] for each in ends if each is not None)
    ids = sorted(set(chain.from_iterable(lists)))
    generation.eos_token_id = ids if len(ids) > 1 else next(iter(ids), None)
    generation.to_json_file(folder / GENERATION)


def _generation(source: Path, config: PretrainedConfig) -> GenerationConfig:
    if (source / GENERATION).is_file():
        return GenerationConfig.from_pretrained(source)
    return GenerationConfig.from_model_config(config)


def _get(config: Mapping[str, Any], key: str) -> Any:
    return config.get(key, config.get("text_config", {}).get(key))


def _set(config: dict[str, Any], key: str, value: object) -> None:
    """Where the base has it: models of several kinds of input keep the text's part apart."""
    text = config.get("text_config", {})
    (text if key in text and key not in config else config)[key] = value
