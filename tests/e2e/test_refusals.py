"""What a server must not serve."""

import shutil
from pathlib import Path

import psutil
import pytest
from chain import Demo, hone_server, published_copy

from hone_contract.artifact import Artifact, draft, open_artifact, seal
from hone_contract.store import Store


def _live(store: Store) -> Artifact:
    return open_artifact(store.model("hone-faq", store.read_live("hone-faq") or ""), "model")


@pytest.mark.chain
def test_one_changed_byte_of_the_weights_is_refused_by_the_files_name(demo: Demo, tmp_path: Path) -> None:
    model = _live(published_copy(demo, tmp_path / "store"))
    weights = model.path / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with hone_server(tmp_path / "store", tmp_path / "log") as running:
        assert running.process.wait(timeout=60) == 65
    log = running.log.read_text()
    assert f"{weights} has changed since it was sealed" in log
    assert "Traceback" not in log


@pytest.mark.chain
def test_the_base_in_the_merged_models_clothes_is_refused(demo: Demo, tmp_path: Path) -> None:
    """Sealed anew, so that only the gate can tell."""
    model = _live(published_copy(demo, tmp_path / "store"))
    base = demo.store.base(model.manifest.lineage["base"].id)
    with draft(model.path.with_name("v-base"), "disguise") as partial:
        for path in model.path.iterdir():
            shutil.copyfile(path, partial / path.name)
        shutil.copyfile(base / "model.safetensors", partial / "model.safetensors")
        seal(partial, "model", "hone-faq/v-base", lineage=model.manifest.lineage)
    Store(tmp_path / "store").point_live("hone-faq", "v-base")
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
