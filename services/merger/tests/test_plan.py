"""A merge's plan: everything is there, unchanged, and belongs together."""

import shutil
from pathlib import Path

import pytest
from merger_tiny import HUB_NAME, seal_base

from hone_contract.artifact import Artifact, draft, seal
from hone_contract.errors import ArtifactCorrupt, ArtifactMissing, BadConfiguration, BadInput
from hone_contract.store import Store
from hone_merger.plan import make_plan


def reseal(adapter: Artifact, store: Store, name: str) -> Artifact:
    """The same adapter under another id."""
    with draft(store.adapter(name), {}) as partial:
        shutil.copytree(adapter.path, partial, dirs_exist_ok=True)
        return seal(partial, "adapter", name, lineage=adapter.manifest.lineage)


def test_a_plan_has_the_adapter_and_the_base_that_it_was_trained_on(
    filled: Store, base: Artifact, adapter: Artifact
) -> None:
    plan = make_plan(filled, adapter.manifest.id, None)
    assert (plan.tuned, plan.base) == (adapter, base)
    assert plan.lineage == {"adapter": adapter.source, "base": base.source}
    assert plan.version == adapter.manifest.id


@pytest.mark.parametrize(
    ("adapter_id", "name"),
    [
        ("hone-faq-0123456789", "hone-faq"),
        ("a-0123456789-0123456789", "a-0123456789"),
        ("hone-faq-012345678", "hone-faq-012345678"),
        ("hone-faq-01234567890", "hone-faq-01234567890"),
        ("plain", "plain"),
    ],
)
def test_a_model_is_named_after_the_run(filled: Store, adapter: Artifact, adapter_id: str, name: str) -> None:
    reseal(adapter, filled, adapter_id)
    assert make_plan(filled, adapter_id, None).name == name
    assert make_plan(filled, adapter_id, "given").name == "given"


def test_an_adapter_that_is_not_there_is_bad_configuration(filled: Store) -> None:
    with pytest.raises(ArtifactMissing, match=r"no adapter at .*none-0123456789") as caught:
        make_plan(filled, "none-0123456789", None)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("name", ["", "../adapters/x", "a/b"])
def test_a_name_that_the_store_cannot_have_is_bad_configuration(filled: Store, name: str) -> None:
    with pytest.raises(BadConfiguration, match="is no name for the store"):
        make_plan(filled, name, None)


def test_a_base_that_is_not_there_is_bad_configuration(
    filled: Store, base: Artifact, adapter: Artifact
) -> None:
    shutil.rmtree(base.path)
    with pytest.raises(ArtifactMissing, match=r"no base at .*Qwen--Qwen2\.5-1.5B-Instruct"):
        make_plan(filled, adapter.manifest.id, None)


def test_another_base_of_the_same_name_is_refused(
    filled: Store, base: Artifact, adapter: Artifact, llama: Path
) -> None:
    shutil.rmtree(base.path)
    other = seal_base(llama, filled, HUB_NAME)
    with pytest.raises(BadInput, match=r"was trained on another Qwen--Qwen2\.5-1.5B-Instruct") as caught:
        make_plan(filled, adapter.manifest.id, None)
    assert caught.value.exit_code == 65
    assert base.manifest.digest[:12] in str(caught.value)
    assert other.manifest.digest[:12] in str(caught.value)


def test_a_byte_that_changed_is_refused_with_the_file(filled: Store, adapter: Artifact) -> None:
    """Of the base they are read while it is merged: see test_merge."""
    [weights] = adapter.path.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactCorrupt) as caught:
        make_plan(filled, adapter.manifest.id, None)
    assert str(caught.value).startswith(f"{weights} has changed since it was sealed")


def test_an_adapter_that_cannot_be_merged_is_refused(
    filled: Store, base: Artifact, adapter: Artifact
) -> None:
    with draft(filled.adapter("odd"), {}) as partial:
        shutil.copytree(adapter.path, partial, dirs_exist_ok=True)
        (partial / "adapter_config.json").write_text('{"peft_type": "IA3"}', encoding="utf-8")
        seal(partial, "adapter", "odd", lineage={"base": base.source})
    with pytest.raises(BadInput, match="is a IA3 adapter"):
        make_plan(filled, "odd", None)
