"""Tiny models, made once a session; no test needs a network."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from trainer_hub import Hub, serving
from trainer_run import Run, train_by_command
from trainer_tiny import chat_tokenizer, questions, save_base, tiny_llama, tiny_qwen2, write_lines
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hone_contract.store import Store


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def training(qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Future[Run]"]:
    """A run in a process of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(train_by_command, tmp_path_factory.mktemp("run"), qwen_folder)


@pytest.fixture(scope="session", autouse=True)
def _training_ahead(request: pytest.FixtureRequest) -> None:
    """Begins that run with the first test, if any will look at it: meanwhile the others go on.

    Not where pytest-xdist keeps all cores busy anyway, and every worker would begin one.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ and any(
        "training" in getattr(item, "fixturenames", ()) for item in request.session.items
    ):
        request.getfixturevalue("training")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return chat_tokenizer()


@pytest.fixture(scope="session")
def llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return tiny_llama(len(tokenizer))


@pytest.fixture(scope="session")
def llama_folder(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model folder as save_pretrained writes it; not to be changed."""
    return save_base(tmp_path_factory.mktemp("models") / "tiny-llama", llama, tokenizer)


@pytest.fixture(scope="session")
def qwen_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen"
    return save_base(folder, tiny_qwen2(len(tokenizer)), tokenizer)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where a command that runs in `tmp_path` finds its store."""
    return Store(tmp_path / "store")


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "data.jsonl", questions(24))
