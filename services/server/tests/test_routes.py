"""What the server says of itself and of its model."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from swap_samples import LINEAGE, NAME, Engine, make_serving, publish

from hone_contract.store import Store
from hone_server import routes
from hone_server.current import Serving, current, set_current


@pytest.fixture
def serving(store: Store) -> Iterator[Serving]:
    """A server of `v2`, which served `v1` before."""
    old, model = publish(store, "v1"), publish(store, "v2", 2.0)
    serving = make_serving(store, old, Engine(model))
    serving.memory.passed(model)
    serving.model = model
    set_current(serving)
    yield serving


def get(path: str) -> httpx.Response:
    app = FastAPI()
    routes.attach(app)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_a_server_that_is_ready_tells_what_it_serves_and_how_it_was_proven(serving: Serving) -> None:
    answer = get("/ready")
    assert answer.status_code == 200
    assert serving.verdict is not None
    assert answer.json() == {
        "ready": True,
        "model": NAME,
        "version": "v2",
        "digest": serving.model.manifest.digest,
        "gate": serving.verdict.to_json(),
        "swapping": False,
        "previous": "v1",
        "refused": {},
    }


@pytest.mark.usefixtures("serving")
def test_a_server_that_swaps_is_ready_all_the_same() -> None:
    async def close() -> None:
        await current().door.close(5)

    asyncio.run(close())
    answer = get("/ready")
    assert answer.status_code == 200
    assert answer.json()["swapping"] is True


def test_a_server_that_stops_is_not_ready(serving: Serving) -> None:
    serving.stopping = True
    answer = get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": "the server is stopping"}


def test_a_server_that_lets_nobody_in_is_not_ready_and_says_why(serving: Serving) -> None:
    serving.door.shut("the engine holds weights that are not proven")
    answer = get("/ready")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "the engine holds weights that are not proven"


def test_a_server_that_is_about_to_end_is_not_ready_and_says_why(serving: Serving) -> None:
    serving.failure = "the engine hung: no token in 120 s"
    answer = get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": "the engine hung: no token in 120 s"}


def test_a_server_that_served_nothing_else_has_nothing_before(store: Store) -> None:
    model = publish(store, "v1")
    set_current(make_serving(store, model, Engine(model)))
    assert get("/ready").json()["previous"] is None


def test_what_was_refused_is_told_with_its_reason(serving: Serving, store: Store) -> None:
    refused = publish(store, "v3")
    serving.memory.refused(refused, "wrong numbers")
    told = get("/ready").json()
    assert told["refused"] == {"v3": {"digest": refused.manifest.digest, "reason": "wrong numbers"}}
    assert told["previous"] == "v1"


def test_after_a_rollback_the_way_leads_forward_again(serving: Serving, store: Store) -> None:
    serving.memory.passed(publish(store, "v3"))
    serving.memory.passed(serving.model)
    assert get("/ready").json()["previous"] == "v3"


def test_a_card_tells_which_version_it_is_and_where_it_comes_from(serving: Serving) -> None:
    manifest = serving.model.manifest
    [card] = get("/v1/models").json()["data"]
    assert card == {
        "id": NAME,
        "object": "model",
        "created": int(manifest.created_at.timestamp()),
        "owned_by": "hone",
        "version": "v2",
        "digest": manifest.digest,
        "base": "tiny-base",
        "lineage": {name: {"id": each.id, "digest": each.digest} for name, each in LINEAGE.items()},
    }


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("path", ["/ready", "/v1/models", f"/v1/models/{NAME}"])
def test_no_path_of_the_machine_is_told(path: str, tmp_path: Path) -> None:
    text = get(path).text
    assert str(tmp_path) not in text
    assert "/" not in json.dumps(json.loads(text))


@pytest.mark.usefixtures("serving")
def test_a_model_is_found_by_its_id() -> None:
    listed = get("/v1/models").json()["data"]
    assert get(f"/v1/models/{NAME}").json() == listed[0]


def test_an_id_may_hold_slashes(serving: Serving) -> None:
    serving.name = "org/faq"
    for path in ("/v1/models/org/faq", "/v1/models/org%2Ffaq"):
        answer = get(path)
        assert (answer.status_code, answer.json()["id"]) == (200, "org/faq")


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("model", ["other", f"{NAME}/v2", f"{NAME}/", "v2"])
def test_a_model_that_is_not_served_is_told_in_openais_words(model: str) -> None:
    answer = get(f"/v1/models/{model}")
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert repr(model) in error["message"]
