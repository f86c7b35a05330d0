"""Tiny models and adapters; no test needs a network."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from merger_tiny import HUB_NAME, llama_folder, peft_folder, qwen_folder, seal_base

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.events import Reporter
from hone_contract.store import Store
from hone_merger.imported import import_adapter
from hone_merger.merge import merge
from hone_merger.plan import make_plan


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an output head of its own, in float32; not to be changed."""
    return llama_folder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with tied embeddings, in bfloat16; not to be changed."""
    return qwen_folder(tmp_path_factory.mktemp("models") / "tiny-qwen")


@pytest.fixture(scope="session")
def plain_adapter(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT folder made elsewhere, of the base in `qwen`; not to be changed."""
    return peft_folder(tmp_path_factory.mktemp("adapters") / "Sky Blue", qwen)


@pytest.fixture(scope="session")
def _filled(qwen: Path, plain_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("filled") / "store")
    import_adapter(plain_adapter, seal_base(qwen, store, HUB_NAME), None, store)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one, where a command that runs in `tmp_path` finds it."""
    return Store(tmp_path / "store")


@pytest.fixture
def filled(_filled: Store, store: Store) -> Store:
    """A store with one base and one adapter of it, which a test may change."""
    shutil.copytree(_filled.root, store.root)
    return store


@pytest.fixture
def base(filled: Store) -> Artifact:
    return open_artifact(filled.base(HUB_NAME), "base")


@pytest.fixture
def adapter(filled: Store) -> Artifact:
    [path] = filled.root.glob("adapters/sky-blue-*")
    return open_artifact(path, "adapter")


@pytest.fixture
def model(filled: Store, adapter: Artifact) -> Artifact:
    """A merged model, which is live."""
    plan = make_plan(filled, adapter.manifest.id, "sky")
    merged = merge(plan, filled, Reporter("merger"))
    filled.point_live("sky", plan.version)
    return merged
