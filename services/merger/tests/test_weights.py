"""Weights of full fine-tuning are taken over as they are, and proven as a fused model is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from merger_cli import HEAVY, Outcome, refusal, run_merger
from merger_tiny import HUB_NAME, bytes_of, edit_json, seal_base
from merger_weights import edit_model, seal_weights, weights_folder
from safetensors.torch import load_file

from hone_contract.artifact import Artifact, draft, open_artifact
from hone_contract.errors import ArtifactCorrupt, BadConfiguration, BadInput
from hone_contract.events import Reporter
from hone_contract.model_files import TOKENIZER_FILES
from hone_contract.probes import read_probes
from hone_contract.store import Store
from hone_merger.merge import merge
from hone_merger.plan import make_plan
from hone_merger.weights import fit_weights

pytestmark = pytest.mark.chain

RUN = "faq-0123456789"
GENERATION = "generation_config.json"
NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"


def merge_here(store: Store, run_id: str = RUN) -> Artifact:
    return merge(make_plan(store, run_id, None), store, Reporter("merger"))


@pytest.fixture(scope="module")
def made(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the base in `qwen`, as a training leaves them; not to be changed."""
    folder = weights_folder(tmp_path_factory.mktemp("weights") / "made", qwen)
    # Training leaves this behind, and the model would be slow with it.
    edit_json(folder / "config.json", use_cache=False)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, which a test may change."""
    return Path(shutil.copytree(made, tmp_path / "folder"))


@pytest.fixture
def tuned(store: Store, qwen: Path, made: Path) -> Artifact:
    """Sealed weights in a store that has their base."""
    return seal_weights(made, seal_base(qwen, store, HUB_NAME), store, RUN)


# -- what the command leaves -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(qwen: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Outcome]:
    """`hone-merger merge` of sealed weights, by the real command."""
    folder = tmp_path_factory.mktemp("merge")
    store = Store(folder / "store")
    seal_weights(made, seal_base(qwen, store, HUB_NAME), store, RUN)
    outcome = run_merger(folder, "merge", RUN)
    assert outcome.code == 0, outcome.err
    return store, outcome


@pytest.fixture
def model(done: tuple[Store, Outcome]) -> Artifact:
    return open_artifact(done[0].model("faq", RUN), "model", digests=True)


def test_the_model_is_sealed_and_live(done: tuple[Store, Outcome], model: Artifact) -> None:
    store, outcome = done
    assert outcome.out == f"faq/{RUN}\n"
    assert store.read_live("faq") == RUN
    assert not store.partials()
    assert model.manifest.tools.keys() == {"torch", "transformers", "peft", "bitsandbytes"}


def test_the_model_names_the_weights_and_the_base(done: tuple[Store, Outcome], model: Artifact) -> None:
    weights = open_artifact(done[0].weights(RUN), "weights")
    base = open_artifact(done[0].base(HUB_NAME), "base")
    assert model.manifest.lineage == {"weights": weights.source, "base": base.source}


def test_the_model_has_the_files_of_a_model_and_no_others(
    done: tuple[Store, Outcome], model: Artifact
) -> None:
    weights = bytes_of(done[0].weights(RUN))
    files = bytes_of(model.path)
    tokenizer = {name: body for name, body in weights.items() if name in TOKENIZER_FILES}
    assert files.items() >= tokenizer.items()
    assert files["model.safetensors"] == weights["model.safetensors"]
    own = {
        "config.json",
        GENERATION,
        "model.safetensors",
        "probes.json",
        "merge_report.json",
        "README.md",
        "manifest.json",
    }
    assert files.keys() == {*tokenizer, *own}
    assert not any(str(done[0].root).encode() in body for body in files.values())


def test_the_configuration_is_the_bases(done: tuple[Store, Outcome], model: Artifact) -> None:
    configs = [
        json.loads((folder / "config.json").read_text()) for folder in (model.path, done[0].base(HUB_NAME))
    ]
    assert configs[0] == configs[1]


def test_the_probes_are_the_tuned_models(done: tuple[Store, Outcome], model: Artifact) -> None:
    recorded = read_probes(done[0].weights(RUN)).probes
    written = read_probes(model.path).probes
    assert len(written) == len(recorded) > 0
    for probe, before in zip(written, recorded, strict=True):
        assert probe.model_copy(update={"merged": None}) == before
        assert probe.merged == pytest.approx(probe.adapter, abs=1e-5)
    metrics = model.manifest.metrics
    assert metrics["mean_delta_from_adapter"] < 1e-5 < 0.01 < metrics["mean_delta_from_base"]


def test_merging_again_merges_nothing(done: tuple[Store, Outcome]) -> None:
    again = run_merger(done[0].root.parent, "merge", RUN)
    assert (again.code, again.out) == (0, done[1].out)
    assert '"event":"already_merged"' in again.err
    assert not again.imported & HEAVY


# -- variations ------------------------------------------------------------------------------------


def test_shards_are_taken_over_with_their_index(store: Store, llama: Path, tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "weights", llama, shard="60KB")
    base = seal_base(llama, store, "tiny")
    model = merge_here(store, seal_weights(folder, base, store, "sharded").manifest.id)
    shards = {name: body for name, body in bytes_of(folder).items() if name.startswith("model")}
    assert len(shards) > 3
    assert INDEX in shards
    assert bytes_of(model.path).items() >= shards.items()


def test_the_model_ends_wherever_its_base_or_the_training_may_end(
    store: Store, qwen: Path, folder: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(qwen, tmp_path / "base"))
    edit_json(base / GENERATION, eos_token_id=[0])
    # Trainers set the end token to the tokenizer's; what a base ends at besides must not get lost.
    edit_json(folder / "config.json", eos_token_id=1)
    edit_json(folder / GENERATION, eos_token_id=1, temperature=0.6)
    seal_weights(folder, seal_base(base, store, HUB_NAME), store, RUN)
    written = json.loads((merge_here(store).path / GENERATION).read_text())
    assert (written["eos_token_id"], written["temperature"]) == ([0, 1, 2], 0.6)


@pytest.mark.usefixtures("tuned")
def test_nothing_of_a_killed_merge_is_sealed(store: Store) -> None:
    plan = make_plan(store, RUN, None)
    with draft(store.model(plan.name, plan.version), plan.identity, keep=True) as partial:
        (partial / ".probes.json.0123456789ab").write_text("half")
    assert not [entry.path for entry in merge_here(store).manifest.files if entry.path.startswith(".")]


# -- what is refused -------------------------------------------------------------------------------


def test_an_adapter_and_weights_of_one_name_are_told(store: Store, tuned: Artifact, tmp_path: Path) -> None:
    shutil.copytree(tuned.path, store.adapter(RUN))
    with pytest.raises(BadConfiguration, match=r"names two things, .*/adapters/.* and .*/weights/.*; remove"):
        make_plan(store, RUN, None)
    assert "names two things" in refusal(run_merger(tmp_path, "merge", RUN), 78)


def test_a_byte_that_changed_is_refused_with_the_file(store: Store, tuned: Artifact) -> None:
    content = bytearray((tuned.path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tuned.path / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=r"weights/.*/model\.safetensors has changed since"):
        make_plan(store, RUN, None)


@pytest.mark.usefixtures("tuned")
def test_another_base_of_the_same_name_is_refused(store: Store, llama: Path) -> None:
    shutil.rmtree(store.base(HUB_NAME))
    seal_base(llama, store, HUB_NAME)
    with pytest.raises(BadInput, match=f"{RUN} was trained on another Qwen--Qwen2.5-1.5B-Instruct"):
        make_plan(store, RUN, None)


def misfit(folder: Path, base: Path) -> str:
    with pytest.raises(BadInput) as caught:
        fit_weights(folder, base)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder}: ")


def test_weights_that_fit_are_taken_without_reading_a_tensor(folder: Path, qwen: Path) -> None:
    assert {weights.device.type for weights in fit_weights(folder, qwen).parameters()} == {"meta"}


def test_a_tensor_of_another_shape_is_told(
    folder: Path, qwen: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit_model(folder, add={NORM: torch.zeros(48)})
    told = f"tensor {NORM} has the shape (48,), and in the base (32,) (1 such); nothing was merged"
    assert misfit(folder, qwen) == told
    assert capfd.readouterr() == ("", "")


def test_a_tensor_that_is_missing_is_told(folder: Path, qwen: Path) -> None:
    edit_model(folder, without=(NORM,))
    assert misfit(folder, qwen) == f"tensor {NORM} of the base is missing (1 such); nothing was merged"


def test_a_tensor_without_a_place_is_told(folder: Path, qwen: Path) -> None:
    edit_model(folder, add={"model.odd.weight": torch.zeros(2), "model.even.weight": torch.zeros(2)})
    told = "tensor model.even.weight has no place in the base (2 such); nothing was merged"
    assert misfit(folder, qwen) == told


def test_weights_of_a_bigger_vocabulary_are_told(folder: Path, qwen: Path) -> None:
    """Whose own configuration says so too."""
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    grown = torch.cat([embeddings, torch.zeros(2, 32, dtype=embeddings.dtype)])
    edit_model(folder, add={"model.embed_tokens.weight": grown})
    edit_json(folder / "config.json", vocab_size=len(grown))
    assert f"has the shape ({len(grown)}, 32), and in the base ({len(embeddings)}, 32)" in misfit(
        folder, qwen
    )


def test_a_folder_without_weights_is_told(folder: Path, qwen: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "cannot be loaded: " in misfit(folder, qwen)


def test_weights_that_do_not_fit_are_not_published(store: Store, qwen: Path, folder: Path) -> None:
    base = seal_base(qwen, store, HUB_NAME)
    edit_model(folder, add={"model.odd.weight": torch.zeros(2)})
    seal_weights(folder, base, store, RUN)
    with pytest.raises(BadInput, match="has no place in the base"):
        merge_here(store)
    assert not list(store.root.glob("models/*/*/manifest.json"))


def test_weights_that_are_nearer_to_the_base_are_refused(store: Store, qwen: Path, folder: Path) -> None:
    seal_weights(folder, seal_base(qwen, store, HUB_NAME), store, RUN, swap=True)
    with pytest.raises(BadInput, match="the merged model is not the tuned model"):
        merge_here(store)
    assert not list(store.root.glob("models/*/*/manifest.json"))


def test_a_training_that_changed_nothing_is_refused(store: Store, qwen: Path, tmp_path: Path) -> None:
    same = weights_folder(tmp_path / "same", qwen, move=0)
    seal_weights(same, seal_base(qwen, store, HUB_NAME), store, RUN)
    with pytest.raises(BadInput, match="the merged model is not the tuned model"):
        merge_here(store)
