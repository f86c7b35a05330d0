"""A whole merge: once by the real command, and in this process what varies it."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import answering
from merger_cli import HEAVY, Outcome, refusal, run_merger
from merger_tiny import HUB_NAME, adapted, bytes_of, edit_json, logprobs, peft_folder, seal_base
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.errors import BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import TOKENIZER_FILES
from hone_contract.probes import Probes, read_probes, write_probes
from hone_contract.store import Store
from hone_merger.__main__ import main
from hone_merger.imported import import_adapter
from hone_merger.merge import merge
from hone_merger.plan import make_plan
from hone_merger.settings import write_generation_config

# Each merges a model, by the command or in this process.
pytestmark = pytest.mark.chain

GENERATION = "generation_config.json"


class Hub(ThreadingHTTPServer):
    """Stands where the Hugging Face Hub would be, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refuse)
        self.asked: list[str] = []


class _Refuse(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


@dataclass(frozen=True)
class Merged:
    """What the command did in its folder."""

    folder: Path
    base: Artifact
    adapter: Artifact
    outcome: Outcome
    asked: list[str]
    """What it asked the Hub."""

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def model(self) -> Artifact:
        return open_artifact(self.store.model("sky-blue", self.adapter.manifest.id), "model", digests=True)

    @property
    def probes(self) -> Probes:
        return read_probes(self.model.path)


@pytest.fixture(scope="module")
def merged(_filled: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Merged]:
    """`hone-merger merge`, while a Hub could be asked."""
    folder = tmp_path_factory.mktemp("merge")
    store = Store(Path(shutil.copytree(_filled.root, folder / "store")))
    [path] = store.root.glob("adapters/sky-blue-*")
    with answering(Hub()) as hub:
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
        outcome = run_merger(folder, "merge", path.name, **online)
    assert outcome.code == 0, outcome.err
    base = open_artifact(store.base(HUB_NAME), "base", digests=True)
    yield Merged(folder, base, open_artifact(path, "adapter", digests=True), outcome, hub.asked)


# -- what the command leaves -----------------------------------------------------------------------


def test_the_model_is_sealed_and_live(merged: Merged) -> None:
    version = merged.adapter.manifest.id
    assert merged.outcome.out == f"sky-blue/{version}\n"
    assert merged.model.manifest.id == f"sky-blue/{version}"
    assert merged.store.read_live("sky-blue") == version
    assert not merged.store.partials()


def test_the_model_names_what_it_was_made_from(merged: Merged) -> None:
    manifest = merged.model.manifest
    assert manifest.lineage == {"adapter": merged.adapter.source, "base": merged.base.source}
    assert manifest.tools.keys() == {"torch", "transformers", "peft", "bitsandbytes"}


def test_the_model_has_the_files_of_a_model_and_no_others(merged: Merged) -> None:
    files = bytes_of(merged.model.path)
    tokenizer = {name: body for name, body in bytes_of(merged.base.path).items() if name in TOKENIZER_FILES}
    assert files.items() >= tokenizer.items()
    model = {
        "config.json",
        GENERATION,
        "model.safetensors",
        "probes.json",
        "merge_report.json",
        "README.md",
        "manifest.json",
    }
    assert files.keys() == {*tokenizer, *model}


def test_the_weights_are_those_that_peft_makes_in_the_bases_format(merged: Merged) -> None:
    ours = load_file(merged.model.path / "model.safetensors")
    theirs = adapted(merged.base.path, merged.adapter.path).merge_and_unload().state_dict()
    before = load_file(merged.base.path / "model.safetensors")
    assert ours.keys() == before.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {weights.dtype for weights in ours.values()} == {torch.bfloat16}


def test_the_configuration_is_the_bases(merged: Merged) -> None:
    text = (merged.model.path / "config.json").read_text(encoding="utf-8")
    base = json.loads((merged.base.path / "config.json").read_text(encoding="utf-8"))
    assert json.loads(text) == base
    assert "quantization" not in text
    assert "_name_or_path" not in text


def test_no_file_names_a_path_of_this_machine(merged: Merged) -> None:
    for name, body in bytes_of(merged.model.path).items():
        assert str(merged.folder).encode() not in body, name


def test_the_probes_have_what_the_written_model_makes_of_them(merged: Merged) -> None:
    written: Any = AutoModelForCausalLM.from_pretrained(merged.model.path, dtype="float32").eval()
    recorded = read_probes(merged.adapter.path).probes
    assert len(merged.probes.probes) == len(recorded) > 0
    for probe, before in zip(merged.probes.probes, recorded, strict=True):
        assert probe.model_copy(update={"merged": None}) == before
        expected = logprobs(written, probe.prompt_token_ids, probe.continuation_token_ids)
        assert probe.merged == pytest.approx(expected, abs=1e-4)


def test_the_written_model_is_the_adapter_model_but_for_rounding(merged: Merged) -> None:
    metrics = merged.model.manifest.metrics
    deltas: dict[str, list[float]] = {"adapter": [], "base": []}
    for probe in merged.probes.probes:
        for name, found in deltas.items():
            pairs = zip(probe.merged or [], getattr(probe, name), strict=True)
            found += [abs(ours - theirs) for ours, theirs in pairs]
    for name, found in deltas.items():
        assert metrics[f"mean_delta_from_{name}"] == pytest.approx(sum(found) / len(found))
    assert metrics["mean_delta_from_adapter"] < 0.1 < 1 < metrics["mean_delta_from_base"]


def test_events_are_told(merged: Merged) -> None:
    events = [json.loads(each) for each in merged.outcome.err.splitlines() if each.startswith("{")]
    assert [event["event"] for event in events] == ["merging", "merged", "published"]
    assert events[-1]["data"] == {"name": "sky-blue", "version": merged.adapter.manifest.id}


def test_nobody_is_asked_about_a_base_that_is_there(merged: Merged) -> None:
    assert merged.asked == []


def test_merging_again_merges_nothing_and_publishes(merged: Merged) -> None:
    before = bytes_of(merged.model.path)
    merged.store.live("sky-blue").unlink()
    (merged.folder / "run-id").write_text(f"{merged.adapter.manifest.id}\n", encoding="utf-8")
    again = run_merger(merged.folder, "merge", "--run-id-file", "run-id")
    assert (again.code, again.out) == (0, merged.outcome.out)
    assert '"event":"already_merged"' in again.err
    assert not again.imported & HEAVY
    assert bytes_of(merged.model.path) == before
    assert merged.store.read_live("sky-blue") == merged.adapter.manifest.id


def test_a_model_of_another_adapter_of_that_name_is_not_published(merged: Merged, tmp_path: Path) -> None:
    """The adapter was lost and trained again: same id, other weights."""
    shutil.copytree(merged.folder, tmp_path / "copy")
    store = Store(tmp_path / "copy" / merged.store.root.relative_to(merged.folder))
    adapter = store.adapter(merged.adapter.manifest.id)
    content = adapter.rename(tmp_path / "content")
    with draft(adapter, "again") as partial:
        shutil.copytree(content, partial, dirs_exist_ok=True)
        edit_json(partial / "adapter_config.json", inference_mode=False)
        seal(partial, "adapter", adapter.name, lineage=merged.adapter.manifest.lineage)
    refused = run_merger(tmp_path / "copy", "merge", adapter.name)
    assert "merged from another adapter" in refusal(refused, 78)


# -- what is refused -------------------------------------------------------------------------------


def published(store: Store) -> list[Path]:
    return [*store.root.glob("models/*/live"), *store.root.glob("models/*/*/manifest.json")]


def merge_here(store: Store, adapter: Artifact) -> Artifact:
    return merge(make_plan(store, adapter.manifest.id, None), store, Reporter("merger"))


def test_a_base_whose_bytes_changed_is_told_with_the_file(
    filled: Store, base: Artifact, adapter: Artifact, tmp_path: Path
) -> None:
    content = bytearray((base.path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (base.path / "model.safetensors").write_bytes(content)
    outcome = run_merger(tmp_path, "merge", adapter.manifest.id)
    told = "error: store/bases/Qwen--Qwen2.5-1.5B-Instruct/model.safetensors has changed since it was sealed"
    assert (outcome.code, outcome.out) == (65, "")
    assert outcome.err.splitlines()[-1].startswith(told)
    assert not published(filled)


def test_a_merged_model_that_changed_since_is_not_published(
    filled: Store, adapter: Artifact, tmp_path: Path
) -> None:
    model = merge_here(filled, adapter)
    content = bytearray((model.path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model.path / "model.safetensors").write_bytes(content)
    assert "has changed since" in refusal(run_merger(tmp_path, "merge", adapter.manifest.id), 65)
    assert not list(filled.root.glob("models/*/live"))


def test_a_merge_that_changes_nothing_is_refused(store: Store, qwen: Path, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "untrained", qwen, zero=True)
    adapter = import_adapter(folder, seal_base(qwen, store, HUB_NAME), None, store)
    with pytest.raises(BadInput, match="the adapter changes nothing of its base; nothing was published"):
        merge_here(store, adapter)
    assert not published(store)


def test_a_merge_that_is_nearer_to_the_base_than_to_the_adapter_is_refused(
    filled: Store, adapter: Artifact
) -> None:
    probes = read_probes(adapter.path)
    swapped = [each.model_copy(update={"base": each.adapter, "adapter": each.base}) for each in probes.probes]
    with draft(filled.adapter("swapped"), {}) as partial:
        shutil.copytree(adapter.path, partial, dirs_exist_ok=True)
        write_probes(partial, probes.model_copy(update={"probes": swapped}))
        odd = seal(partial, "adapter", "swapped", lineage=adapter.manifest.lineage)
    with pytest.raises(BadInput, match="the merged model is not the tuned model"):
        merge_here(filled, odd)
    assert not published(filled)


# -- variations ------------------------------------------------------------------------------------


def run_here(monkeypatch: pytest.MonkeyPatch, store: Store, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["hone-merger", "--store", str(store.root), *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0


@pytest.mark.parametrize("embeddings", [False, True], ids=["alone", "with the base's embeddings"])
def test_a_plain_adapter_is_imported_merged_and_named_by_the_command(
    embeddings: bool,
    store: Store,
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seal_base(llama, store, "tiny")
    layers = ["embed_tokens", "lm_head", "q_proj"]
    folder = peft_folder(tmp_path / "mine", llama, embeddings=embeddings, target_modules=layers)
    run_here(monkeypatch, store, "import-adapter", str(folder), "--base", "tiny", "--name", "mine")
    adapter_id = capsys.readouterr().out.strip()
    assert adapter_id.startswith("mine-")
    run_here(monkeypatch, store, "merge", adapter_id, "--name", "best")
    assert capsys.readouterr().out == f"best/{adapter_id}\n"
    assert store.read_live("best") == adapter_id
    model = open_artifact(store.model("best", adapter_id), "model", digests=True)
    assert model.manifest.metrics["mean_delta_from_adapter"] < 1e-3


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning")
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_of_tied_embeddings_becomes_a_model_with_a_head_of_its_own(
    store: Store, qwen: Path, tmp_path: Path, target: str
) -> None:
    folder = peft_folder(tmp_path / "adapter", qwen, target_modules=["q_proj", target])
    adapter = import_adapter(folder, seal_base(qwen, store, HUB_NAME), None, store)
    model = merge_here(store, adapter)
    assert "lm_head.weight" in load_file(model.path / "model.safetensors")
    assert model.manifest.metrics["mean_delta_from_adapter"] < 0.1


def ends(base: Path, folder: Path) -> object:
    write_generation_config([base], folder)
    return json.loads((folder / GENERATION).read_text())["eos_token_id"]


@pytest.mark.parametrize(
    ("model_ends", "generation_ends", "together"),
    [(2, 2, 2), (2, [0, 1], [0, 1, 2]), ([2, 1], 0, [0, 1, 2]), (2, None, 2), (None, [1], 1)],
)
def test_the_model_ends_wherever_its_base_may_end(
    tmp_path: Path, qwen: Path, model_ends: object, generation_ends: object, together: object
) -> None:
    base = Path(shutil.copytree(qwen, tmp_path / "base"))
    edit_json(base / "config.json", eos_token_id=model_ends)
    edit_json(base / GENERATION, eos_token_id=generation_ends)
    assert ends(base, tmp_path) == together


def test_a_base_without_a_generation_config_ends_where_its_config_says(tmp_path: Path, qwen: Path) -> None:
    base = Path(shutil.copytree(qwen, tmp_path / "base"))
    (base / GENERATION).unlink()
    assert ends(base, tmp_path) == 2


def test_generation_settings_are_kept_even_those_that_transformers_would_not_write(
    store: Store, qwen: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(qwen, tmp_path / "base"))
    # As Llama 2's were: a temperature, but no do_sample.
    edit_json(base / GENERATION, temperature=0.6, top_p=0.9, eos_token_id=[0, 1])
    folder = peft_folder(tmp_path / "adapter", base)
    adapter = import_adapter(folder, seal_base(base, store, HUB_NAME), None, store)
    written = json.loads((merge_here(store, adapter).path / GENERATION).read_text(encoding="utf-8"))
    assert (written["temperature"], written["top_p"], written["eos_token_id"]) == (0.6, 0.9, [0, 1, 2])
