"""Bases from the Hub, as the command fetches them."""

from pathlib import Path

import pytest
from trainer_cli import refusal, run_trainer
from trainer_hub import COMMIT, Hub
from trainer_tiny import HUB_NAME, bytes_of

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.errors import ArtifactExists
from hone_contract.manifest import Source
from hone_contract.store import Store
from hone_trainer.base import import_base, locate


@pytest.fixture
def fetched(store: Store) -> Artifact:
    """A base as one lies in the store that came from the Hub."""
    with draft(store.base(HUB_NAME), {}) as partial:
        (partial / "config.json").write_text("{}", encoding="utf-8")
        lineage = {"source": Source(id=f"hub:{HUB_NAME}@{COMMIT}")}
        return seal(partial, "base", "Qwen--Qwen2.5-1.5B-Instruct", lineage=lineage)


def test_a_base_is_fetched_with_its_commit_and_without_what_is_not_wanted(
    hub: Hub, llama_folder: Path, tmp_path: Path, store: Store
) -> None:
    wanted = bytes_of(llama_folder)
    hub.repository, hub.files = HUB_NAME, {**wanted, "pytorch_model.bin": b"", "modeling_own.py": b""}
    done = run_trainer(
        tmp_path, "import-base", HUB_NAME, **hub.environment, HUGGINGFACE_HUB_TOKEN="hf_secret"
    )
    assert done.code == 0, done.err
    base = open_artifact(store.base(HUB_NAME), "base", digests=True)
    assert base.manifest.lineage["source"].id == f"hub:{HUB_NAME}@{COMMIT}"
    assert {entry.path for entry in base.manifest.files} == wanted.keys()
    assert bytes_of(base.path).items() >= wanted.items()
    assert {token for path, token in hub.asked if HUB_NAME in path} == {"Bearer hf_secret"}
    assert "hf_secret" not in done.err


def test_an_unknown_repository_is_bad_configuration(hub: Hub, tmp_path: Path) -> None:
    told = refusal(run_trainer(tmp_path, "import-base", HUB_NAME, **hub.environment), 78)
    assert f"the Hub has no '{HUB_NAME}' (revision default)" in told
    assert hub.asked


def test_a_failing_hub_may_be_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.status = 500
    told = refusal(run_trainer(tmp_path, "import-base", HUB_NAME, **hub.environment), 75)
    assert "cannot be fetched from the Hub" in told


def test_a_hub_that_cannot_be_reached_may_be_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.server_close()
    told = refusal(run_trainer(tmp_path, "import-base", HUB_NAME, **hub.environment), 75)
    assert "cannot be fetched from the Hub (ConnectError)" in told
    assert f"--name {HUB_NAME}" in told


@pytest.mark.parametrize("revision", [None, COMMIT, COMMIT[:7]])
def test_a_base_that_was_fetched_is_used_as_recorded(
    fetched: Artifact, store: Store, revision: str | None
) -> None:
    assert import_base(locate(HUB_NAME, revision), store) == fetched


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("revision", ["main", "v1.0"])
def test_a_branch_or_tag_that_was_not_asked_for_is_another_base(store: Store, revision: str) -> None:
    with pytest.raises(ArtifactExists, match="choose another --name"):
        import_base(locate(HUB_NAME, revision), store)


@pytest.mark.usefixtures("fetched")
def test_another_commit_is_another_base(store: Store) -> None:
    with pytest.raises(ArtifactExists, match=f"imported from hub:{HUB_NAME}@{COMMIT}"):
        import_base(locate(HUB_NAME, "f" * 40), store)


@pytest.mark.usefixtures("fetched")
def test_another_repository_of_that_name_in_the_store_is_another_base(store: Store) -> None:
    with pytest.raises(ArtifactExists, match=f"imported from hub:{HUB_NAME}@{COMMIT}"):
        import_base(locate("another/repository", None, HUB_NAME), store)
