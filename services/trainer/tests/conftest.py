"""Tiny models, made once a session; no test needs a network."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from trainer_hub import Hub
from trainer_tiny import chat_tokenizer, questions, save_base, tiny_llama, tiny_qwen2, write_lines
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hone_contract.store import Store


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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
