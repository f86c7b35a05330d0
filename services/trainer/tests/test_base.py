"""Bases: what is taken over from a folder, what is refused, and when a base is the one asked for."""

import json
import shutil
from pathlib import Path

import pytest
from trainer_tiny import CHATML, HUB_NAME, bytes_of
from transformers import AutoTokenizer

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import ArtifactExists, BadConfiguration, BadInput, RetryableFailure
from hone_contract.store import Store
from hone_trainer.base import import_base, locate

TEMPLATE = "chat_template.jinja"


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def take(folder: Path, store: Store, name: str | None = None) -> Artifact:
    return import_base(locate(str(folder), None, name), store)


def add_to_json(path: Path, **values: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | values), encoding="utf-8")


def nothing_is_sealed(store: Store) -> bool:
    return not list(store.artifacts())


# -- a folder --------------------------------------------------------------------------------------


def test_a_folder_is_taken_over_byte_for_byte(folder: Path, store: Store) -> None:
    base = take(folder, store)
    assert base.path == store.base("model")
    taken = bytes_of(open_artifact(base.path, "base", digests=True).path)
    taken.pop("manifest.json")
    assert taken == bytes_of(folder)
    assert base.manifest.lineage["source"].id == "folder:model"


def test_only_files_of_a_model_are_taken_over(folder: Path, store: Store) -> None:
    expected = set(bytes_of(folder)) | {"manifest.json", "model.safetensors.index.json"}
    for name in ("README.md", "modeling_own.py", "pytorch_model.bin", "optimizer.pt", ".gitattributes"):
        (folder / name).write_text("not wanted", encoding="utf-8")
    (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    (folder / "original").mkdir()
    (folder / "original" / "more.safetensors").write_text("not wanted", encoding="utf-8")
    assert set(bytes_of(take(folder, store).path)) == expected


def test_links_are_followed_as_the_hubs_cache_has_them(folder: Path, store: Store, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert bytes_of(take(linked, store).path).keys() == {*bytes_of(folder), "manifest.json"}


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(folder: Path, store: Store, name: str) -> None:
    add_to_json(folder / name, auto_map={"AutoModelForCausalLM": "modeling_own.OwnModel"})
    with pytest.raises(BadInput, match=rf"^{name} of this base asks for remote code \(auto_map\)"):
        take(folder, store)
    assert nothing_is_sealed(store)


def test_pickled_weights_are_refused(folder: Path, store: Store) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"no \*\.safetensors weights"):
        take(folder, store)
    assert nothing_is_sealed(store)


def test_a_base_without_a_fast_tokenizer_is_refused(folder: Path, store: Store) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        take(folder, store)
    assert nothing_is_sealed(store)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_an_unreadable_configuration_is_refused(
    folder: Path, store: Store, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=f"^{name} of this base is "):
        take(folder, store)
    assert nothing_is_sealed(store)


def test_the_template_of_an_older_model_gets_a_file_of_its_own(folder: Path, store: Store) -> None:
    (folder / TEMPLATE).unlink()
    add_to_json(folder / "tokenizer_config.json", chat_template=CHATML)
    base = take(folder, store)
    assert (base.path / TEMPLATE).read_text(encoding="utf-8") == CHATML
    assert AutoTokenizer.from_pretrained(base.path).chat_template == CHATML


def test_a_template_that_has_a_file_is_left_alone(folder: Path, store: Store) -> None:
    add_to_json(folder / "tokenizer_config.json", chat_template="another")
    assert (take(folder, store).path / TEMPLATE).read_text(encoding="utf-8") == CHATML


def test_a_base_without_a_template_is_taken_over(folder: Path, store: Store) -> None:
    (folder / TEMPLATE).unlink()
    assert not (take(folder, store).path / TEMPLATE).exists()


def test_importing_again_changes_nothing(folder: Path, store: Store) -> None:
    first = take(folder, store)
    written = (first.path / "model.safetensors").stat().st_mtime_ns
    assert take(folder, store) == first
    assert (first.path / "model.safetensors").stat().st_mtime_ns == written


def test_a_changed_folder_is_another_base_and_needs_another_name(folder: Path, store: Store) -> None:
    first = take(folder, store)
    add_to_json(folder / "generation_config.json", eos_token_id=[1, 2])
    with pytest.raises(ArtifactExists, match=r"imported from folder:model, which is not .*--name"):
        take(folder, store)
    assert open_artifact(first.path, "base", digests=True) == first
    assert take(folder, store, "other").manifest.digest != first.manifest.digest


def test_a_file_beside_the_model_does_not_make_it_another(folder: Path, store: Store) -> None:
    first = take(folder, store)
    (folder / "README.md").write_text("Read me.", encoding="utf-8")
    assert take(folder, store) == first


# -- names -----------------------------------------------------------------------------------------


def test_an_unknown_demo_model_is_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"no demo model 'demo:gpt-9'; there is demo:smollm2-135m"):
        locate("demo:gpt-9", None)


@pytest.mark.parametrize("name", ["gpt2", "", "a b/c", "owner/name/more", "https://example.org/model"])
def test_a_name_that_is_no_base_is_refused(name: str) -> None:
    with pytest.raises(BadConfiguration, match=r"model\.name: .* is no base: use demo:"):
        locate(name, None)


@pytest.mark.parametrize("content", [[], ["README.md"]])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, content: list[str]) -> None:
    for name in content:
        (tmp_path / name).touch()
    with pytest.raises(BadConfiguration, match=r"is no model folder: there is no .*/config\.json"):
        locate(str(tmp_path), None)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="is no model folder"):
        locate(str(tmp_path / "none"), None)


@pytest.mark.parametrize("name", ["../outside", "..", "-x", ".hidden", "a b"])
def test_no_name_leads_out_of_the_store(folder: Path, store: Store, name: str) -> None:
    with pytest.raises(BadConfiguration, match="is no name for the store"):
        take(folder, store, name)


# -- the Hub ---------------------------------------------------------------------------------------


def test_a_hub_id_cannot_be_fetched_offline(store: Store) -> None:
    with pytest.raises(RetryableFailure, match=rf"'{HUB_NAME}' cannot be fetched .*--name {HUB_NAME}"):
        import_base(locate(HUB_NAME, None), store)
    assert nothing_is_sealed(store)


@pytest.mark.parametrize("name", ["Qwen/Qwen--2.5", "Qwen/Qwen2..5", "-qwen/qwen"])
def test_what_the_hub_takes_for_no_id_is_refused(store: Store, name: str) -> None:
    with pytest.raises(BadConfiguration, match=r"is no Hub id|is no name for the store"):
        import_base(locate(name, None), store)


@pytest.mark.parametrize("revision", [None, "main", "a" * 40])
def test_a_base_imported_by_hand_under_a_hub_id_needs_no_hub(
    folder: Path, store: Store, revision: str | None
) -> None:
    by_hand = take(folder, store, HUB_NAME)
    assert import_base(locate(HUB_NAME, revision), store) == by_hand
