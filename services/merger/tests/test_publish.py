"""What leaves the store: by the real command, and looked at as whoever receives it would."""

import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from merger_cli import refusal, run_merger
from merger_published import expected, published
from merger_tiny import HUB_NAME, bytes_of, edit_json
from merger_weights import seal_weights, weights_folder
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone_contract.artifact import FILE_NAME as MANIFEST
from hone_contract.artifact import Artifact, draft, open_artifact, remove, seal
from hone_contract.errors import ArtifactBusy, ArtifactMissing, BadConfiguration, BadInput, RetryableFailure
from hone_contract.events import Reporter
from hone_contract.manifest import Source
from hone_contract.store import Store
from hone_merger.card import adapter_card
from hone_merger.lookup import locate
from hone_merger.plan import Plan
from hone_merger.publishing.bundle import make_bundle
from hone_merger.publishing.folder import write_folder
from hone_merger.publishing.gguf import CONVERTER
from hone_merger.publishing.place import becoming, becoming_with_digest, check_place, check_room

pytestmark = pytest.mark.chain

STAND_IN = """\
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype")
options = parser.parse_args()
print("reading", options.model)
if options.outtype == "q8_0":
    sys.exit("Model architecture is not supported")
options.outfile.write_bytes(b"GGUF" + options.outtype.encode() + (options.model / "config.json").read_bytes())
"""


def verified(folder: Path) -> None:
    """By coreutils, that every file but the list itself and Git's is as SHA256SUMS says."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert listed == {path.name for path in folder.iterdir()} - {"SHA256SUMS", ".gitattributes"}


def test_a_folder_has_the_model_and_no_conversation(tmp_path: Path, model: Artifact) -> None:
    target = tmp_path / "out" / "sky"
    target.parent.mkdir()
    assert published(tmp_path, "sky", "--folder", target).out == f"{target}\n"
    verified(target)
    found = bytes_of(target)
    assert b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n" in found.pop(".gitattributes")
    del found["SHA256SUMS"]
    assert found == expected(model)
    assert [path.name for path in target.parent.iterdir()] == ["sky"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(target)
    assert loaded.config.model_type == "qwen2"
    assert AutoTokenizer.from_pretrained(target).chat_template


def test_probes_leave_when_they_are_asked_for(tmp_path: Path, model: Artifact) -> None:
    done = published(tmp_path, f"sky/{model.path.name}", "--folder", tmp_path / "sky", "--with-probes")
    assert "probes.json goes too: it has conversations from the data" in done.err
    verified(tmp_path / "sky")
    assert (tmp_path / "sky" / "probes.json").read_bytes() == (model.path / "probes.json").read_bytes()


def from_hub(store: Store, adapter: Artifact, base: Artifact) -> Artifact:
    """The adapter, of a base that says it was downloaded."""
    shutil.rmtree(base.path / MANIFEST, ignore_errors=True)
    (base.path / MANIFEST).unlink()
    kept = base.path.rename(base.path.with_name("kept"))
    with draft(base.path, {}) as partial:
        shutil.copytree(kept, partial, dirs_exist_ok=True)
        origin = Source(id=f"hub:{HUB_NAME}@{'0' * 40}")
        sealed = seal(partial, "base", base.manifest.id, lineage={"source": origin})
    shutil.rmtree(kept)
    with draft(store.adapter("sky-0123456789"), {}) as partial:
        shutil.copytree(adapter.path, partial, dirs_exist_ok=True)
        config = json.loads((partial / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = "somewhere"
        (partial / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        return seal(partial, "adapter", "sky-0123456789", lineage={"base": sealed.source})


def test_an_adapter_names_the_base_that_others_find(
    tmp_path: Path, filled: Store, adapter: Artifact, base: Artifact
) -> None:
    ours = from_hub(filled, adapter, base)
    before = bytes_of(ours.path)
    target = tmp_path / "adapter"
    published(tmp_path, ours.manifest.id, "--folder", target)
    verified(target)
    assert bytes_of(ours.path) == before
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == HUB_NAME
    card = (target / "README.md").read_text(encoding="utf-8")
    assert f'base_model: "{HUB_NAME}"' in card and "library_name: peft" in card
    assert f"vllm serve {HUB_NAME} --enable-lora" in card
    assert expected(ours, "adapter_config.json").items() <= bytes_of(target).items()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), str(target))
    assert any(bool(torch.any(value != 0)) for name, value in loaded.named_parameters() if "lora_B" in name)


def test_an_adapter_of_a_base_from_elsewhere_is_published_as_it_is(tmp_path: Path, adapter: Artifact) -> None:
    target = tmp_path / "adapter"
    published(tmp_path, adapter.manifest.id, "--folder", target)
    verified(target)
    assert expected(adapter).items() <= bytes_of(target).items()
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "The base is not on the Hub" in card and "base_model" not in card


def test_a_path_of_this_machine_does_not_leave(filled: Store, base: Artifact, adapter: Artifact) -> None:
    with draft(filled.adapter("sky-0123456789"), {}) as partial:
        shutil.copytree(adapter.path, partial, dirs_exist_ok=True)
        edit_json(partial / "adapter_config.json", base_model_name_or_path="/home/somebody/base")
        ours = seal(partial, "adapter", "sky-0123456789", lineage={"base": base.source})
    [config] = [
        item.content for item in make_bundle(ours, filled).items if item.name == "adapter_config.json"
    ]
    assert isinstance(config, bytes)
    assert json.loads(config)["base_model_name_or_path"] == base.manifest.id


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"rank_pattern": {"q_proj": 16}}, "=./\n"),
        ({"rank_pattern": {"q_proj": 20}}, " --max-lora-rank 32\n"),
        ({"rank_pattern": {"q_proj": 999}}, "vLLM does not load an adapter of this kind"),
        ({"use_dora": True}, "vLLM does not load an adapter of this kind"),
        ({"modules_to_save": ["lm_head"]}, "vLLM does not load an adapter of this kind"),
    ],
)
def test_the_card_says_how_vllm_loads_it_and_whether(
    filled: Store, base: Artifact, adapter: Artifact, config: dict[str, object], told: str
) -> None:
    card = adapter_card(Plan(adapter, base, "sky", adapter.manifest.id), filled, {"r": 4, **config})
    assert told in card
    assert ("vllm serve" in card) is (told[0] in "= ")


def test_an_adapter_of_another_base_is_not_published(
    filled: Store, adapter: Artifact, base: Artifact
) -> None:
    remove(base.path)
    with pytest.raises(ArtifactMissing, match="no base at"):
        make_bundle(adapter, filled)
    with draft(base.path, {}) as partial:
        seal(partial, "base", base.manifest.id, lineage={})
    with pytest.raises(BadInput, match="trained on another"):
        make_bundle(adapter, filled)


def test_only_what_is_listed_leaves(filled: Store, model: Artifact) -> None:
    with draft(filled.model("sky", "more"), {}) as partial:
        for name in ("config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"):
            (partial / name).write_text(name)
        for name in ("probes.json", "notes.txt", "training_args.bin"):
            (partial / name).write_text("private")
        more = seal(partial, "model", "sky/more", lineage={})
    assert [item.name for item in make_bundle(more, filled).items] == [
        "config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "SHA256SUMS",
    ]
    assert {item.name for item in make_bundle(model, filled).items} == {*expected(model), "SHA256SUMS"}


@pytest.mark.parametrize("name", ["sky.tar", "sky.tar.gz"])
def test_an_archive_has_the_same_bytes_each_time(tmp_path: Path, model: Artifact, name: str) -> None:
    first, second = tmp_path / name, tmp_path / "again" / name
    second.parent.mkdir()
    published(tmp_path, "sky", "--archive", first)
    published(tmp_path, "sky", "--archive", second)
    assert first.read_bytes() == second.read_bytes()
    subprocess.run(["sha256sum", "--check", "--strict", f"{name}.sha256"], cwd=tmp_path, check=True)
    with tarfile.open(first) as archive:
        assert {(entry.uid, entry.mode, entry.mtime) for entry in archive} == {
            (0, 0o644, int(model.manifest.created_at.timestamp()))
        }
        archive.extractall(tmp_path / "unpacked", filter="data")
    [folder] = (tmp_path / "unpacked").iterdir()
    assert folder.name == model.manifest.id.replace("/", "-")
    verified(folder)
    assert expected(model).items() <= bytes_of(folder).items()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing", "--folder", "out"], "no model and no adapter is named 'nothing'"),
        (["sky", "--folder", "store/models/sky/out"], "only Hone writes"),
        (["sky", "--folder", "store"], "only Hone writes"),
        (["sky", "--folder", "missing/out"], "make it first"),
        (["sky", "--folder", "/proc"], "is where a disk is mounted"),
        (["sky", "--archive", "sky.zip"], "ends neither with .tar nor with .tar.gz"),
        (["sky", "--gguf", "empty", "--converter", "none.py"], "is there already"),
        (["sky/other", "--folder", "out"], "no model at store/models/sky/other"),
        (["sky", "--hub", "somebody/some-model"], "set HF_TOKEN"),
        (["sky", "--hub", ""], "set HF_TOKEN"),
        (["sky", "--folder", "out", "--public"], "--public goes with --hub"),
        (["sky", "--folder", "out", "--gguf-type", "f16"], "--gguf-type goes with --gguf"),
        (["sky", "--gguf", "out.gguf", "--with-probes"], "a GGUF file has no place for probes"),
        (["sky", "--gguf", "out.gguf"], "git clone https://github.com/ggml-org/llama.cpp"),
        (["sky", "--gguf", "out.gguf", "--converter", "none.py"], "no converter none.py"),
    ],
)
@pytest.mark.usefixtures("model")
def test_mistakes_are_told_at_once(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "empty").mkdir()
    assert told in refusal(run_merger(tmp_path, "publish", *arguments, PATH="/usr/bin:/bin"), 78)


def test_what_is_there_is_not_touched(tmp_path: Path, model: Artifact) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    told = refusal(run_merger(tmp_path, "publish", "sky", "--folder", "full"), 78)
    assert "is there already" in told
    assert (tmp_path / "full" / "mine").read_text() == "kept"
    (tmp_path / "empty").mkdir()
    published(tmp_path, "sky", "--folder", "empty")
    assert (tmp_path / "empty" / "model.safetensors").stat().st_size
    assert not (tmp_path / "empty" / "model.safetensors").samefile(model.path / "model.safetensors")


def test_a_byte_that_changed_does_not_leave(tmp_path: Path, model: Artifact) -> None:
    path = model.path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    outcome = run_merger(tmp_path, "publish", "sky", "--folder", "out")
    assert outcome.code == 65 and not (tmp_path / "out").exists()


def test_a_failure_halfway_leaves_nothing(
    tmp_path: Path, filled: Store, model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    (tmp_path / "here").mkdir()
    with pytest.raises(RetryableFailure, match="No space left on device; make room, then publish again"):
        write_folder(make_bundle(model, filled), tmp_path / "here" / "out", filled, Reporter("merger"))
    assert not list((tmp_path / "here").iterdir())
    with pytest.raises(ValueError, match="halfway"), becoming(tmp_path / "here" / "file") as partial:
        partial.write_text("half")
        raise ValueError("halfway")
    assert not list((tmp_path / "here").iterdir())
    with pytest.raises(ValueError, match="halfway"), becoming_with_digest(tmp_path / "here" / "file"):
        raise ValueError("halfway")
    assert not list((tmp_path / "here").iterdir())


def test_room_is_looked_for_before(tmp_path: Path, store: Store) -> None:
    place = check_place(tmp_path / "out", store)
    with pytest.raises(RetryableFailure, match="make room"):
        check_room(place, 10**18)


def test_a_name_of_two_things_is_asked_about(filled: Store, adapter: Artifact, model: Artifact) -> None:
    shutil.copytree(model.path.parent, filled.root / "models" / adapter.manifest.id)
    with pytest.raises(BadConfiguration) as told:
        locate(filled, adapter.manifest.id)
    assert str(adapter.path) in str(told.value) and "models/" in str(told.value)
    assert locate(filled, f"sky/{model.path.name}") == ("model", model.path)
    filled.live("sky").unlink()
    with pytest.raises(ArtifactMissing, match="say sky/VERSION"):
        locate(filled, "sky")


def test_whole_weights_are_merged_first(filled: Store, base: Artifact, tmp_path: Path) -> None:
    seal_weights(weights_folder(tmp_path / "tuned", base.path), base, filled, "whole-0123456789")
    with pytest.raises(BadConfiguration, match="hone-merger merge whole-0123456789"):
        locate(filled, "whole-0123456789")


def test_llama_cpps_converter_is_asked(tmp_path: Path, model: Artifact) -> None:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / CONVERTER).write_text(STAND_IN)
    published(tmp_path, "sky", "--gguf", "sky.gguf", LLAMA_CPP=str(folder))
    assert (tmp_path / "sky.gguf").read_bytes() == b"GGUFbf16" + (model.path / "config.json").read_bytes()
    subprocess.run(["sha256sum", "--check", "sky.gguf.sha256"], cwd=tmp_path, check=True)
    named = ["--gguf", "other.gguf", "--gguf-type", "q8_0", "--converter", folder / CONVERTER]
    failed = run_merger(tmp_path, "publish", "sky", *named)
    assert failed.code == 65
    assert "Model architecture is not supported" in failed.err
    assert not list(tmp_path.glob("*other.gguf*")) and not list(tmp_path.glob(".other*"))


def test_an_adapter_is_no_model_for_llama_cpp(tmp_path: Path, adapter: Artifact) -> None:
    (tmp_path / CONVERTER).write_text(STAND_IN)
    command = ["publish", adapter.manifest.id, "--gguf", "out.gguf", "--converter", CONVERTER]
    assert "is an adapter" in run_merger(tmp_path, *command).err
    assert open_artifact(adapter.path, "adapter")


@pytest.mark.usefixtures("model")
def test_a_converter_with_an_environment_of_its_own_runs_there(tmp_path: Path) -> None:
    (tmp_path / CONVERTER).write_text(STAND_IN)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ntouch "{tmp_path}/used"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    published(tmp_path, "sky", "--gguf", "sky.gguf", "--gguf-type", "f32", "--converter", CONVERTER)
    assert (tmp_path / "used").exists()
    assert (tmp_path / "sky.gguf").read_bytes().startswith(b"GGUFf32")


@pytest.fixture
def slow_converter(tmp_path: Path) -> Path:
    """Says that it began by a file, and waits at most half a minute for another."""
    script = tmp_path / CONVERTER
    wait = """
import time
(options.outfile.parent / "began").touch()
deadline = time.monotonic() + 30
while not (options.outfile.parent / "go").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
"""
    head, line, rest = STAND_IN.partition('print("reading", options.model)')
    script.write_text(head + wait + line + rest)
    return script


def test_what_is_being_published_cannot_be_removed(
    tmp_path: Path, model: Artifact, slow_converter: Path
) -> None:
    command = [sys.executable, "-m", "hone_merger", "publish", "sky", "--gguf", "sky.gguf"]
    with subprocess.Popen([*command, "--converter", slow_converter], cwd=tmp_path) as process:
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(ArtifactBusy):
            remove(model.path)
        (tmp_path / "go").touch()
    assert process.returncode == 0
    remove(model.path)
