"""What a server must not serve."""

from pathlib import Path

import psutil
import pytest
from chain import Demo, hone_server, published_copy
from versions import base_in_disguise, flip_a_bit

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.store import Store


def _live(store: Store) -> Artifact:
    return open_artifact(store.model("hone-faq", store.read_live("hone-faq") or ""), "model")


@pytest.mark.chain
def test_one_changed_byte_of_the_weights_is_refused_by_the_files_name(demo: Demo, tmp_path: Path) -> None:
    model = _live(published_copy(demo, tmp_path / "store"))
    weights = model.path / "model.safetensors"
    flip_a_bit(weights)
    with hone_server(tmp_path / "store", tmp_path / "log") as running:
        assert running.process.wait(timeout=60) == 65
    log = running.log.read_text()
    assert f"{weights} has changed since it was sealed" in log
    assert "Traceback" not in log


@pytest.mark.chain
def test_the_base_in_the_merged_models_clothes_is_refused(demo: Demo, tmp_path: Path) -> None:
    """Sealed anew, so that only the gate can tell."""
    store = published_copy(demo, tmp_path / "store")
    store.point_live("hone-faq", base_in_disguise(store, "hone-faq").path.name)
    with hone_server(tmp_path / "store", tmp_path / "log") as running:
        assert running.process.wait(timeout=300) == 65
    log = running.log.read_text()
    assert "the served model equals its base" in log
    assert "nothing is served" in log
    assert "Traceback" not in log


@pytest.mark.chain
def test_a_dead_engine_is_a_failure_to_retry(demo: Demo, tmp_path: Path) -> None:
    with hone_server(demo.store.root, tmp_path / "log") as running:
        running.wait_until_ready()
        children = psutil.Process(running.process.pid).children(recursive=True)
        engine = next(
            child for child in children if "EngineCore" in " ".join([child.name(), *child.cmdline()])
        )
        engine.kill()
        assert running.process.wait(timeout=60) == 75
    assert "the engine died" in running.log.read_text()
