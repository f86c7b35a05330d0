"""The Hub's own client sends a model to a stand-in for the Hub, in processes of their own."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from merger_cli import Outcome, refusal, run_merger
from merger_hub import COMMIT, TOKEN, Hub, taking_uploads
from merger_published import expected, published

from hone_contract.artifact import Artifact

# Each is a process of its own, or several.
pytestmark = pytest.mark.chain

REPOSITORY = "somebody/some-model"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with taking_uploads() as hub:
        yield hub


def refused(tmp_path: Path, code: int, **environment: str) -> Outcome:
    """A publication that began, and ended with one line and this exit code."""
    outcome = run_merger(tmp_path, "publish", "sky", "--hub", REPOSITORY, **environment)
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    *events, told = outcome.err.splitlines()
    assert [json.loads(line)["event"] for line in events] == ["publishing"]
    assert told.startswith("error: --hub: ")
    assert TOKEN not in outcome.err
    return outcome


def test_the_hub_gets_every_byte_in_one_commit(tmp_path: Path, model: Artifact, hub: Hub) -> None:
    outcome = published(tmp_path, "sky", "--hub", REPOSITORY, **hub.environment)
    assert outcome.out == f"{hub.address}/{REPOSITORY}/commit/{COMMIT}\n"
    assert [json.loads(line)["event"] for line in outcome.err.splitlines()] == ["publishing", "published"]
    assert hub.private == {REPOSITORY: True}
    assert hub.commits == [f"Publish {model.manifest.id}"]
    arrived = dict(hub.files)
    assert hashlib.sha256(arrived["model.safetensors"]).hexdigest() in arrived.pop("SHA256SUMS").decode()
    assert arrived == expected(model)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in outcome.out + outcome.err


@pytest.mark.usefixtures("model")
def test_the_same_content_is_published_again(tmp_path: Path, hub: Hub) -> None:
    first = published(tmp_path, "sky", "--hub", REPOSITORY, **hub.environment)
    again = published(tmp_path, "sky", "--hub", REPOSITORY, "--public", **hub.environment)
    assert again.out == first.out
    assert len(hub.commits) == 1
    assert hub.private == {REPOSITORY: True}
    del hub.files["config.json"]
    published(tmp_path, "sky", "--hub", REPOSITORY, **hub.environment)
    assert len(hub.commits) == 2 and "config.json" in hub.files


def test_what_an_earlier_publication_left_goes_in_the_same_commit(
    tmp_path: Path, model: Artifact, hub: Hub
) -> None:
    mine = {"LICENSE": b"mine", "figures/one.safetensors": b"mine", ".gitattributes": b"the Hub's"}
    earlier = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "probes.json")
    hub.files = mine | dict.fromkeys(earlier, b"of another model")
    published(tmp_path, "sky", "--hub", REPOSITORY, **hub.environment)
    assert len(hub.commits) == 1
    assert hub.files.keys() == {*mine, *expected(model), "SHA256SUMS"}
    assert hub.files.items() >= mine.items()


def test_the_other_variable_has_the_token_too(tmp_path: Path, adapter: Artifact, hub: Hub) -> None:
    environment = hub.environment | {"HF_TOKEN": "", "HUGGINGFACE_HUB_TOKEN": "hf_other"}
    published(tmp_path, adapter.manifest.id, "--hub", REPOSITORY, **environment)
    assert hub.tokens == {"Bearer hf_other"}


@pytest.mark.usefixtures("model")
def test_a_repository_that_is_public_already_is_not_published_into_by_accident(
    tmp_path: Path, hub: Hub
) -> None:
    hub.private[REPOSITORY] = False
    outcome = run_merger(tmp_path, "publish", "sky", "--hub", REPOSITORY, **hub.environment)
    assert (outcome.code, outcome.out) == (78, ""), outcome.err
    assert "is public; add --public" in outcome.err
    assert (hub.commits, hub.blobs) == ([], {})


def test_a_public_repository_is_asked_for(tmp_path: Path, adapter: Artifact, hub: Hub) -> None:
    published(tmp_path, adapter.manifest.id, "--hub", REPOSITORY, "--public", **hub.environment)
    assert hub.private == {REPOSITORY: False}
    assert {"adapter_model.safetensors", "README.md", "SHA256SUMS"} <= hub.files.keys()
    assert "probes.json" not in hub.files


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("status", "code", "told"),
    [(401, 78, "check the name"), (403, 78, "(HTTP 403: no)"), (412, 75, "again"), (500, 75, "HTTP 500")],
)
def test_a_hub_that_refuses_is_told(tmp_path: Path, hub: Hub, status: int, code: int, told: str) -> None:
    hub.status = status
    outcome = refused(tmp_path, code, **hub.environment)
    assert f"HTTP {status}" in outcome.err and told in outcome.err


@pytest.mark.usefixtures("model")
def test_weights_that_did_not_arrive_are_told(tmp_path: Path, hub: Hub) -> None:
    hub.loses_blobs = True
    assert "'model.safetensors'" in refused(tmp_path, 75, **hub.environment).err
    assert hub.commits == []


@pytest.mark.usefixtures("model")
def test_weights_that_are_not_taken_are_told(tmp_path: Path, hub: Hub) -> None:
    hub.batch_error = "Storage limit reached"
    assert "Storage limit reached" in refused(tmp_path, 78, **hub.environment).err
    assert hub.commits == []


@pytest.mark.usefixtures("model")
def test_a_token_that_xet_does_not_take_is_told(tmp_path: Path, hub: Hub) -> None:
    hub.xet_status = 403
    assert "403 Forbidden" in refused(tmp_path, 78, **hub.environment | {"HF_HUB_DISABLE_XET": "0"}).err
    assert hub.commits == []


@pytest.mark.usefixtures("model")
def test_a_hub_that_is_away_may_be_asked_again(tmp_path: Path, hub: Hub) -> None:
    refused(tmp_path, 75, **hub.environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})


@pytest.mark.usefixtures("model")
def test_a_client_that_may_not_ask_the_hub_is_told(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE is set" in refused(tmp_path, 78, HF_TOKEN=TOKEN).err


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", ["no-owner", "a/b/c", "-/x", "", "somebody/" + "x" * 200])
def test_a_name_that_the_hub_cannot_have_is_told(tmp_path: Path, name: str) -> None:
    assert "--hub" in refusal(run_merger(tmp_path, "publish", "sky", f"--hub={name}", HF_TOKEN=TOKEN), 78)
