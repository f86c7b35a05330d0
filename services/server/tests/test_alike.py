"""Which versions can take each other's place in a running engine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from swap_samples import TEXTS, WEIGHTS, publish, write_weights

from hone_contract.errors import BadInput
from hone_contract.store import Store
from hone_server.alike import difference, same_weights


def _text(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(TEXTS.get(name, "") + "\n")

    return change


def _config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _tensors(**others: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: write_weights(folder / WEIGHTS, 1.0, **others)


def _without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("model.embed.weight")
    save_file(tensors, folder / WEIGHTS)


def _in_two_shards(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    for number, (name, tensor) in enumerate(sorted(tensors.items()), 1):
        save_file({name: tensor}, folder / f"model-{number:05}-of-00002.safetensors")


def test_other_weights_alone_are_alike(store: Store) -> None:
    assert difference(publish(store, "v1"), publish(store, "v2", 2.0)) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_text("tokenizer.json"), "tokenizer.json"),
        (_text("tokenizer_config.json"), "tokenizer_config.json"),
        (_text("chat_template.jinja"), "chat_template.jinja"),
        (_text("generation_config.json"), "generation_config.json"),
        (_config(hidden_size=4), "config.json"),
        (_config(rope_scaling={"factor": 2.0}), "config.json"),
        (_tensors(**{"model.extra": torch.zeros(1)}), "tensors"),
        (_without_a_tensor, "tensors"),
        (_tensors(**{"model.embed.weight": torch.zeros(3, 2)}), "tensors"),
        (_tensors(**{"model.embed.weight": torch.zeros(2, 3, dtype=torch.float16)}), "tensors"),
    ],
    ids=[
        "tokenizer", "tokenizer config", "template", "generation config", "config value", "config key",
        "one tensor more", "one tensor less", "shape", "number format",
    ],
)  # fmt: skip
def test_what_the_engine_keeps_must_be_the_same_and_is_named(
    store: Store, change: Callable[[Path], None], named: str
) -> None:
    old, new = publish(store, "v1"), publish(store, "v2", change=change)
    assert named in (difference(old, new) or "")
    assert named in (difference(new, old) or "")


def test_a_file_that_only_one_of_them_has_is_a_difference(store: Store) -> None:
    def drop(folder: Path) -> None:
        (folder / "generation_config.json").unlink()

    assert "generation_config.json" in (
        difference(publish(store, "v1"), publish(store, "v2", change=drop)) or ""
    )


@pytest.mark.parametrize(
    "change",
    [_config(transformers_version="9.9", _name_or_path="elsewhere"), _in_two_shards, _text("README.md")],
    ids=["who wrote it", "shards", "other files"],
)
def test_what_no_engine_sees_does_not_matter(store: Store, change: Callable[[Path], None]) -> None:
    assert difference(publish(store, "v1"), publish(store, "v2", 2.0, change=change)) is None


def test_weights_are_the_same_when_every_tensor_is_in_whatever_files(store: Store) -> None:
    old = publish(store, "v1")
    for number, change in enumerate([_text("README.md"), _in_two_shards]):
        same, other = f"same-{number}", f"other-{number}"
        assert same_weights(old, publish(store, same, change=change))
        assert not same_weights(old, publish(store, other, 1.0000001, change=change))


@pytest.mark.parametrize("change", [_without_a_tensor, _tensors(**{"model.extra": torch.zeros(1)})])
def test_a_tensor_more_or_less_makes_other_weights(store: Store, change: Callable[[Path], None]) -> None:
    old, new = publish(store, "v1"), publish(store, "v2", change=change)
    assert not same_weights(old, new)
    assert not same_weights(new, old)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_files_that_make_no_sense_are_bad_input_and_named(store: Store, name: str) -> None:
    def spoil(folder: Path) -> None:
        (folder / name).write_text("[]")

    with pytest.raises(BadInput, match=name):
        difference(publish(store, "v1"), publish(store, "v2", change=spoil))
