"""`import-adapter`: a plain PEFT folder becomes an adapter like the trainer's."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from merger_families import variant_folder
from merger_tiny import (
    CONFIG,
    HUB_NAME,
    WEIGHTS,
    adapted,
    bytes_of,
    edit_json,
    edit_weights,
    logprobs,
    peft_folder,
    seal_base,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.errors import BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import TOKENIZER_FILES, sha256_of
from hone_contract.probes import read_probes
from hone_contract.store import Store
from hone_merger.imported import QUESTIONS, import_adapter
from hone_merger.merge import merge
from hone_merger.plan import make_plan


def test_the_folders_bytes_are_sealed_with_the_bases_tokenizer(
    filled: Store, base: Artifact, adapter: Artifact, plain_adapter: Path
) -> None:
    sealed = bytes_of(open_artifact(adapter.path, "adapter", digests=True).path)
    tokenizer = {name: body for name, body in bytes_of(base.path).items() if name in TOKENIZER_FILES}
    weights = {name: body for name, body in bytes_of(plain_adapter).items() if name in (CONFIG, WEIGHTS)}
    assert sealed.keys() == {*tokenizer, *weights, "probes.json", "manifest.json"}
    assert sealed.items() >= {**tokenizer, **weights}.items()
    assert tokenizer.keys() >= {"tokenizer.json", "chat_template.jinja"}
    assert not filled.partials()


def test_the_adapter_names_its_base_and_its_folder(base: Artifact, adapter: Artifact) -> None:
    assert adapter.manifest.lineage["base"] == base.source
    assert adapter.manifest.lineage["source"].id == "folder:Sky Blue"
    assert re.fullmatch(r"sky-blue-[0-9a-f]{10}", adapter.manifest.id)


def test_importing_again_writes_nothing(
    filled: Store, base: Artifact, adapter: Artifact, plain_adapter: Path
) -> None:
    written = (adapter.path / "probes.json").stat().st_mtime_ns
    assert import_adapter(plain_adapter, base, None, filled) == adapter
    assert (adapter.path / "probes.json").stat().st_mtime_ns == written


def test_a_name_may_be_given(filled: Store, base: Artifact, adapter: Artifact, plain_adapter: Path) -> None:
    named = import_adapter(plain_adapter, base, "mine", filled).manifest
    assert named.id == adapter.manifest.id.replace("sky-blue", "mine")


def test_other_weights_are_another_adapter(
    filled: Store, base: Artifact, adapter: Artifact, tmp_path: Path
) -> None:
    other = peft_folder(tmp_path / "Sky Blue", base.path, r=2)
    assert import_adapter(other, base, None, filled).manifest.id != adapter.manifest.id


def test_the_same_weights_on_another_base_are_another_adapter(
    store: Store, llama: Path, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "adapter", llama)
    one = import_adapter(folder, seal_base(llama, store, "one"), None, store)
    (changed := Path(shutil.copytree(llama, tmp_path / "changed")) / "README.md").touch()
    two = import_adapter(folder, seal_base(changed.parent, store, "two"), None, store)
    assert one.manifest.id != two.manifest.id


def test_a_name_that_the_store_cannot_have_is_refused(
    filled: Store, base: Artifact, plain_adapter: Path
) -> None:
    with pytest.raises(BadConfiguration, match="is no name for the store"):
        import_adapter(plain_adapter, base, "../outside", filled)


def test_an_adapter_that_does_not_fit_is_not_sealed(
    filled: Store, base: Artifact, plain_adapter: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "cut"))
    missing = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    edit_weights(folder, without=[missing])
    with pytest.raises(BadInput, match=f"tensor {missing} is missing from the adapter"):
        import_adapter(folder, base, None, filled)
    assert not list(filled.root.glob("adapters/cut-*/manifest.json"))


def test_a_base_without_a_chat_template_is_refused(store: Store, llama: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(llama, tmp_path / "raw"))
    (raw / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match=r"has no chat_template\.jinja"):
        import_adapter(peft_folder(tmp_path / "adapter", raw), seal_base(raw, store, "raw"), None, store)


# -- the tokenizer ---------------------------------------------------------------------------------


def with_tokenizer(folder: Path, base: Path, **config: object) -> Path:
    """As tools save one with the adapter."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    edit_json(folder / "tokenizer_config.json", **config)
    return folder


def test_a_tokenizer_that_comes_with_the_adapter_is_taken(
    filled: Store, base: Artifact, adapter: Artifact, plain_adapter: Path, tmp_path: Path
) -> None:
    folder = with_tokenizer(Path(shutil.copytree(plain_adapter, tmp_path / "Sky Blue")), base.path)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend", model_max_length=77)
    template = (base.path / "chat_template.jinja").read_text() + "{# mine #}"
    (folder / "chat_template.jinja").write_text(template)
    taken = import_adapter(folder, base, None, filled)
    config = json.loads((taken.path / "tokenizer_config.json").read_text())
    known = json.loads((base.path / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["model_max_length"]) == (known["tokenizer_class"], 77)
    assert (taken.path / "chat_template.jinja").read_text() == template
    assert read_probes(taken.path).chat_template_sha256 == sha256_of(folder, "chat_template.jinja")
    assert taken.manifest.id != adapter.manifest.id


def test_a_chat_template_in_the_tokenizers_configuration_is_found(
    filled: Store, base: Artifact, plain_adapter: Path, tmp_path: Path
) -> None:
    folder = with_tokenizer(Path(shutil.copytree(plain_adapter, tmp_path / "old")), base.path)
    template = (folder / "chat_template.jinja").read_text() + "{# old #}"
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    taken = import_adapter(folder, base, None, filled)
    assert (taken.path / "chat_template.jinja").read_text() == template
    assert "chat_template" not in json.loads((taken.path / "tokenizer_config.json").read_text())


def test_an_adapter_with_tokens_of_its_own_is_imported_and_merged(
    store: Store, qwen: Path, tmp_path: Path
) -> None:
    base = seal_base(qwen, store, HUB_NAME)
    tokenizer: Any = AutoTokenizer.from_pretrained(qwen)
    tokenizer.add_tokens(["<mine>", "<yours>"])
    folder = variant_folder(tmp_path / "grown", qwen, rows=len(tokenizer))
    tokenizer.save_pretrained(folder)
    adapter = import_adapter(folder, base, None, store)
    model = merge(make_plan(store, adapter.manifest.id, None), store, Reporter("merger"))
    assert json.loads((model.path / "config.json").read_text())["vocab_size"] == len(tokenizer)
    assert AutoTokenizer.from_pretrained(model.path).convert_tokens_to_ids("<yours>") == len(tokenizer) - 1
    assert model.manifest.metrics["mean_delta_from_adapter"] < 0.1


# -- probes ----------------------------------------------------------------------------------------


def test_probes_ask_as_the_tokenizer_renders(base: Artifact, adapter: Artifact) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(base.path)
    probes = read_probes(adapter.path)
    assert probes.tokenizer_sha256 == sha256_of(base.path, "tokenizer.json")
    assert probes.chat_template_sha256 == sha256_of(base.path, "chat_template.jinja")
    assert [probe.messages[0]["content"] for probe in probes.probes] == list(QUESTIONS)
    for probe in probes.probes:
        text = tokenizer.apply_chat_template(probe.messages, tokenize=False, add_generation_prompt=True)
        assert probe.prompt_token_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert probe.merged is None


def test_probes_are_what_the_two_models_make_of_them(base: Artifact, adapter: Artifact) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype="float32").eval()
    tuned = adapted(base.path, adapter.path, "float32")
    for probe in read_probes(adapter.path).probes:
        asked = probe.prompt_token_ids, probe.continuation_token_ids
        assert 1 <= len(probe.continuation_token_ids) <= 24
        assert probe.base == pytest.approx(logprobs(plain, *asked), abs=1e-4)
        assert probe.adapter == pytest.approx(logprobs(tuned, *asked), abs=1e-4)
        assert probe.adapter != pytest.approx(probe.base, abs=1e-1)
