"""Which model is served, and which version of it."""

import errno
import os
import shutil
from dataclasses import dataclass, field

import pytest
from server_samples import make_settings
from swap_samples import NAME, publish
from versions import flip_a_bit

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.errors import ArtifactCorrupt, ArtifactMissing, BadConfiguration, RetryableFailure
from hone_contract.store import Store
from hone_server import published as published_module
from hone_server.published import choose_version, last_that_passed, read_whole, wait_for_base, wait_for_model
from hone_server.record import Record


@pytest.mark.usefixtures("published")
def test_the_only_published_model_is_found_by_itself(store: Store) -> None:
    assert wait_for_model(make_settings(store), lambda _: None) == ("faq", "v1")


@pytest.mark.usefixtures("published")
def test_a_named_model_is_waited_for_though_another_is_published(store: Store) -> None:
    with pytest.raises(RetryableFailure, match="other"):
        wait_for_model(make_settings(store, model="other"), lambda _: None)


@pytest.mark.usefixtures("published")
def test_of_several_models_one_must_be_named(store: Store) -> None:
    store.live("other").parent.mkdir()
    store.live("other").write_text("v1\n")
    with pytest.raises(BadConfiguration, match="faq, other"):
        wait_for_model(make_settings(store), lambda _: None)
    assert wait_for_model(make_settings(store, model="other"), lambda _: None) == ("other", "v1")


def test_what_it_waits_for_is_told(store: Store) -> None:
    told: list[str] = []
    with pytest.raises(RetryableFailure, match="hone-merger merge"):
        wait_for_model(make_settings(store), told.append)
    assert told == ["waiting for a model to be published"]


@dataclass(frozen=True)
class Failing(Store):
    """On a volume that fails as told, once each, and then is there."""

    errors: list[int] = field(default_factory=list)

    def published(self) -> list[str]:
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return super().published()


@pytest.mark.usefixtures("published")
def test_a_volume_that_cannot_be_read_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_module, "_POLL_SECONDS", 0.001)
    told: list[str] = []
    failing = Failing(store.root, [errno.EIO, errno.ESTALE])
    assert wait_for_model(make_settings(failing, wait_seconds=60), told.append) == ("faq", "v1")
    assert told == [
        "waiting for the volume to come back (Input/output error)",
        "waiting for the volume to come back (Stale file handle)",
    ]


def test_a_volume_that_does_not_come_back_is_told(store: Store) -> None:
    failing = Failing(store.root, [errno.EIO])
    with pytest.raises(
        RetryableFailure, match=r"\(Input/output error\) was waited for 0 s; it cannot be read"
    ):
        wait_for_model(make_settings(failing), lambda _: None)


def test_a_volume_that_may_not_be_read_is_not_waited_for(store: Store) -> None:
    failing = Failing(store.root, [errno.EACCES])
    with pytest.raises(PermissionError):
        wait_for_model(make_settings(failing, wait_seconds=60), lambda _: None)


def test_a_base_is_waited_for_too(store: Store) -> None:
    told: list[str] = []
    with pytest.raises(RetryableFailure, match="hone-trainer import-base tiny"):
        wait_for_base(make_settings(store), "tiny", told.append)
    assert told == ["waiting for the base tiny"]


def test_every_byte_of_a_base_is_checked(store: Store) -> None:
    with draft(store.base("org/tiny"), "test") as partial:
        (partial / "model.safetensors").write_bytes(b"\0" * 64)
        base = seal(partial, "base", "org/tiny", lineage={})
    assert wait_for_base(make_settings(store), "org/tiny", lambda _: None) == base
    (base.path / "model.safetensors").write_bytes(b"\1" * 64)
    with pytest.raises(ArtifactCorrupt, match=r"model\.safetensors"):
        wait_for_base(make_settings(store), "org/tiny", lambda _: None)


def test_every_byte_is_checked(store: Store, published: Artifact) -> None:
    assert read_whole(store, "faq", "v1") == published
    (published.path / "model.safetensors").write_bytes(b"\1" * 4096)
    with pytest.raises(ArtifactCorrupt, match=r"model\.safetensors"):
        read_whole(store, "faq", "v1")


def test_the_live_version_is_taken(store: Store) -> None:
    record = Record().having_passed(publish(store, "v1"))
    publish(store, "v2")
    assert _chosen(store, "v2", record) == ("v2", None)


def _chosen(store: Store, live: str, record: Record) -> tuple[str, str | None]:
    model, reason = choose_version(store, NAME, live, record)
    return model.path.name, reason


@pytest.mark.parametrize("how", ["refused", "went down"])
def test_in_the_place_of_one_that_failed_the_one_that_passed_last_is_taken(store: Store, how: str) -> None:
    passed = [publish(store, version) for version in ("v1", "v2")]
    bad = publish(store, "v3")
    record = Record().having_passed(passed[0]).having_passed(passed[1])
    record = record.having_refused(bad, "refused") if how == "refused" else record.trying(bad).at_a_start()
    model, reason = choose_version(store, NAME, "v3", record)
    assert model == passed[1]
    assert how in (reason or "")


def test_one_that_passed_and_is_gone_is_passed_over(store: Store) -> None:
    passed = [publish(store, version) for version in ("v1", "v2")]
    bad = publish(store, "v3")
    record = Record().having_passed(passed[0]).having_passed(passed[1]).having_refused(bad, "bad")
    shutil.rmtree(passed[1].path)
    assert _chosen(store, "v3", record) == ("v1", "bad")


def test_one_that_passed_and_was_made_anew_and_refused_is_passed_over(store: Store) -> None:
    passed = [publish(store, version) for version in ("v1", "v2")]
    record = Record().having_passed(passed[0]).having_passed(passed[1])
    shutil.rmtree(passed[1].path)
    record = record.having_refused(publish(store, "v2", 7.0), "worse").having_refused(
        publish(store, "v3"), "bad"
    )
    assert _chosen(store, "v3", record) == ("v1", "bad")


def test_the_last_that_passed_is_another_than_the_one_that_is_to_be_replaced(store: Store) -> None:
    record = Record().having_passed(publish(store, "v1")).having_passed(publish(store, "v2"))
    assert last_that_passed(store, NAME, record, "v2") == "v1"
    assert last_that_passed(store, NAME, record, "v3") == "v2"
    assert last_that_passed(store, NAME, Record(), "v3") is None


def test_without_another_that_passed_the_live_version_is_tried_again(store: Store) -> None:
    bad = publish(store, "v1")
    record = Record().having_passed(bad).having_refused(bad, "bad")
    assert _chosen(store, "v1", record) == ("v1", None)


def test_a_failed_version_that_was_made_anew_is_tried(store: Store) -> None:
    record = Record().having_passed(publish(store, "v1")).having_refused(publish(store, "v2"), "bad")
    shutil.rmtree(store.model(NAME, "v2"))
    publish(store, "v2", 7.0)
    assert _chosen(store, "v2", record) == ("v2", None)


@pytest.mark.parametrize("how", ["a byte changed", "gone"])
def test_in_the_place_of_a_broken_one_the_one_that_passed_last_is_taken(store: Store, how: str) -> None:
    record = Record().having_passed(publish(store, "v1"))
    broken = publish(store, "v2")
    if how == "gone":
        shutil.rmtree(broken.path)
    else:
        flip_a_bit(broken.path / "model.safetensors")
    version, reason = _chosen(store, "v2", record)
    assert version == "v1"
    assert "v2" in (reason or "")


def test_a_broken_one_without_another_is_named(store: Store) -> None:
    broken = publish(store, "v1")
    flip_a_bit(broken.path / "model.safetensors")
    with pytest.raises(ArtifactCorrupt, match=r"v1.*model\.safetensors"):
        choose_version(store, NAME, "v1", Record().having_passed(broken))


def test_a_live_version_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(ArtifactMissing, match="v9"):
        choose_version(store, NAME, "v9", Record())
