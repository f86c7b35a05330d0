"""Models by what people call them."""

import shutil
from pathlib import Path

import pytest
from trainer_sealed import RUN, merge, seal_drawn, sealed_run
from trainer_tiny import questions

from hone_contract.errors import ArtifactMissing, BadConfiguration, BadInput
from hone_contract.store import Store
from hone_trainer.answering.lookup import Found, find, find_merged, find_model, find_run
from hone_trainer.base import import_base, locate


@pytest.fixture
def run(tmp_path: Path, llama_folder: Path) -> Found:
    return sealed_run(tmp_path, llama_folder, questions(24))


def test_a_base_a_run_and_a_model_are_found_by_their_names(run: Found, store: Store) -> None:
    model = merge(run, store)
    assert find(store, "tiny-llama") == Found(run.base, run.base)
    assert find(store, RUN) == run == find_run(store, RUN)
    assert find(store, "models/sky") == find(store, "models/sky/1") == Found(model, run.base)
    assert [find(store, name).run_id for name in (RUN, "models/sky")] == [RUN, RUN]
    for name in (f"adapters/{RUN}", "bases/tiny-llama"):
        assert find(store, name) == find(store, name.partition("/")[2])


def test_whole_weights_are_a_runs_too(tmp_path: Path, llama_folder: Path, store: Store) -> None:
    run = sealed_run(tmp_path, llama_folder, questions(24), kind="weights")
    assert find(store, RUN) == find(store, f"weights/{RUN}") == run
    assert find_merged(store, run) is None
    model = merge(run, store)
    assert find_merged(store, run) == Found(model, run.base)


def test_a_base_of_the_hub_is_found_by_its_id(store: Store, llama_folder: Path) -> None:
    base = import_base(locate(str(llama_folder), None, "Qwen/Qwen2.5-1.5B"), store)
    assert find(store, "Qwen/Qwen2.5-1.5B").artifact == base
    assert find(store, "Qwen--Qwen2.5-1.5B").artifact == base


def test_a_name_of_two_things_is_told_with_both(run: Found, store: Store, llama_folder: Path) -> None:
    import_base(locate(str(llama_folder), None, RUN), store)
    with pytest.raises(BadConfiguration, match=f"names 2 things .*: bases/{RUN}, adapters/{RUN}"):
        find(store, RUN)
    assert find(store, f"adapters/{RUN}") == run
    assert find(store, f"bases/{RUN}").is_base
    # A run is asked for where only a run can be meant.
    assert find_run(store, RUN) == run


@pytest.mark.parametrize("name", ["none", "none/none", "adapters/none", "bases/none", "weights/none"])
@pytest.mark.usefixtures("run")
def test_a_name_of_nothing_is_told(store: Store, name: str) -> None:
    with pytest.raises(ArtifactMissing, match="`hone-store ls` lists what there is"):
        find(store, name)


def test_a_model_without_a_live_version_must_be_named_with_one(run: Found, store: Store) -> None:
    model = merge(run, store, live=False)
    with pytest.raises(BadConfiguration, match="no version of models/sky is live"):
        find_model(store, "sky")
    assert find_model(store, "sky/1").artifact == model


def test_a_run_whose_base_is_another_now_is_refused(run: Found, store: Store, qwen_folder: Path) -> None:
    shutil.rmtree(run.base.path)
    import_base(locate(str(qwen_folder), None, "tiny-llama"), store)
    with pytest.raises(BadInput, match=f"{RUN} was made from another tiny-llama"):
        find(store, RUN)


@pytest.mark.usefixtures("run")
def test_a_base_has_no_run(store: Store) -> None:
    with pytest.raises(BadConfiguration, match="'tiny-llama' is a base, which no run made"):
        _ = find(store, "tiny-llama").run_id


def test_the_model_merged_from_a_run_is_the_live_one(run: Found, store: Store) -> None:
    assert find_merged(store, run) is None
    merge(run, store, version="2")
    for version in ("1", "3"):
        merge(run, store, version=version, live=False)
    found = find_merged(store, run)
    assert found is not None
    assert found.artifact.path.name == "2"


def test_what_is_no_merge_of_the_run_is_not_taken_for_one(run: Found, store: Store) -> None:
    other = seal_drawn(store, run.base, {"base": run.base.source}, "other-0123456789", "adapter")
    merge(Found(other, run.base), store, name="other")
    (store.root / "models" / "broken" / "1").mkdir(parents=True)
    assert find_merged(store, run) is None
    with pytest.raises(BadConfiguration, match=f"models/other was merged from other-.*, not from {RUN}"):
        find_merged(store, run, "other")
