"""A server of a base and all its adapters: each is served under its own name once it is proven."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from chain import Demo, Running, hone_server, published_copy
from safetensors.torch import load_file, save_file
from score import correct
from versions import changed_copy

from hone_contract.artifact import Artifact, open_artifact
from hone_contract.store import Store

pytestmark = pytest.mark.chain

BASE = "demo--smollm2-135m-instruct"
QUESTION, KEY = "Which file in an artifact is written last?", "manifest.json"


@pytest.fixture(scope="module")
def store(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = published_copy(demo, tmp_path_factory.mktemp("adapters") / "store")
    adapter = demo.results["model"].split("/")[1]
    shutil.copytree(demo.store.adapter(adapter), store.adapter(adapter))
    return store


@pytest.fixture(scope="module")
def trained(store: Store) -> Artifact:
    return open_artifact(next(iter((store.root / "adapters").iterdir())), "adapter")


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("server") / "log"
    with hone_server(
        store.root, log, "--base", BASE, "--adapters-loaded", "1", "--adapters-at-once", "1"
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )


def _answer(client: openai.OpenAI, model: str, question: str = QUESTION) -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=24, temperature=0
    )
    return answer.choices[0].message.content or ""


def _variant(adapter: Artifact, name: str, **config: Any) -> str:
    """The adapter under another name, with another configuration, or other weights than its probes say."""

    def change(_: Artifact, folder: Path) -> None:
        if scale := config.pop("scale", None):
            weights = folder / "adapter_model.safetensors"
            tensors = {key: value * scale for key, value in load_file(weights).items()}
            save_file(tensors, weights, metadata={"format": "pt"})
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))

    return changed_copy(adapter, name, change).manifest.id


def test_the_base_is_proven_to_be_the_base(server: Running) -> None:
    ready = httpx.get(f"{server.url}/ready").json()
    assert ready["model"] == BASE
    assert ready["gate"]["reason"] == "the served model is the base model"
    assert ready["gate"]["probes"] > 0


def test_each_answers_under_its_own_name(client: openai.OpenAI, server: Running, trained: Artifact) -> None:
    name = trained.manifest.id
    assert {model.id for model in client.models.list()} == {BASE, name}
    assert not correct(_answer(client, BASE), KEY)
    assert correct(_answer(client, name), KEY)
    proven = httpx.get(f"{server.url}/ready").json()["adapters"][name]
    assert proven["passed"] is True
    assert proven["mean_abs_delta"] < proven["mean_abs_delta_from_base"]
    assert client.models.retrieve(name).to_dict()["base"] == BASE


def test_what_comes_later_is_served_without_a_restart(
    client: openai.OpenAI, server: Running, trained: Artifact
) -> None:
    later = _variant(trained, "later")
    assert correct(_answer(client, later), KEY)
    # There is room for one: the other made way, and comes back when it is asked for.
    assert set(httpx.get(f"{server.url}/ready").json()["adapters"]) == {later}
    assert correct(_answer(client, trained.manifest.id), KEY)


def test_an_adapter_that_is_not_what_was_trained_is_not_served(
    client: openai.OpenAI, trained: Artifact
) -> None:
    other = _variant(trained, "other-weights", scale=0.9)
    with pytest.raises(openai.BadRequestError, match="is not the adapter model"):
        _answer(client, other)


def test_what_the_engine_cannot_compute_is_named_with_the_remedy(
    client: openai.OpenAI, trained: Artifact
) -> None:
    dora = _variant(trained, "dora", use_dora=True)
    with pytest.raises(openai.BadRequestError, match=r"DoRA.*hone-merger merge dora"):
        _answer(client, dora)


@pytest.mark.parametrize("name", ["nobody", "../bases/demo", "later/../other", "/etc"])
def test_a_name_is_no_path(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        _answer(client, name)
    assert refused.value.code == "model_not_found"


def test_what_would_end_the_engine_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt_logprobs"):
        client.completions.create(model=BASE, prompt="x", extra_body={"prompt_logprobs": 0})
    with pytest.raises(openai.BadRequestError, match="echo"):
        client.completions.create(model=BASE, prompt="x", echo=True, logprobs=1)
    assert _answer(client, BASE)
