"""Which model is served."""

import pytest
from server_samples import make_settings

from hone_contract.artifact import Artifact
from hone_contract.errors import ArtifactCorrupt, RetryableFailure
from hone_contract.store import Store
from hone_server.published import wait_for_model


def test_the_only_published_model_is_found_by_itself(store: Store, published: Artifact) -> None:
    name, model = wait_for_model(make_settings(store), lambda _: None)
    assert (name, model.path) == ("faq", published.path)


def test_a_named_model_is_waited_for_though_another_is_published(store: Store, published: Artifact) -> None:
    assert published.path.exists()
    with pytest.raises(RetryableFailure, match="other"):
        wait_for_model(make_settings(store, model="other"), lambda _: None)


def test_what_it_waits_for_is_told(store: Store) -> None:
    told: list[str] = []
    with pytest.raises(RetryableFailure):
        wait_for_model(make_settings(store), told.append)
    assert told == ["waiting for a model to be published"]


def test_every_byte_is_checked(store: Store, published: Artifact) -> None:
    (published.path / "model.safetensors").write_bytes(b"\1" * 4096)
    with pytest.raises(ArtifactCorrupt, match=r"model\.safetensors"):
        wait_for_model(make_settings(store), lambda _: None)
