"""Models: listed, looked up, deleted, and routed to, each by the project that they belong to."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from api_serving_app import BASE, STORED, ServingApp, serving_app
from api_upstream import StandIn, stand_in

from hone_api.serving.presence import Listings
from hone_api.settings import Settings

ADAPTER, MERGED = "hone-faq-0123456789", "hone-faq"
PUBLISHED = "of-the-house"
OLD, NEW = "ft:demo/tiny:hone:one:aaaaaaaa", "ft:demo/tiny:hone:ünï/x:bbbbbbbb"
THEIRS = "ft:demo/tiny:hone:two:cccccccc"


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandIn]:
    with stand_in(STORED, ADAPTER, MERGED) as here:
        yield here


@pytest.fixture(scope="module")
def app(upstream: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingApp]:
    """Whose models stay as they are."""
    with _app(upstream, tmp_path_factory.mktemp("api")) as here:
        yield here


@pytest.fixture
def own_app(upstream: StandIn, tmp_path: Path) -> Iterator[ServingApp]:
    with _app(upstream, tmp_path) as here:
        yield here


def test_a_projects_own_come_first_and_the_newest_of_them(app: ServingApp) -> None:
    listed = list(app.client().models.list())
    assert [(model.id, model.created, model.owned_by) for model in listed] == [
        (NEW, 200, "hone/one"),
        (OLD, 100, "hone/one"),
        (BASE, 0, "hone"),
    ]


@pytest.mark.parametrize("name", [OLD, NEW, BASE])
def test_one_is_found_by_its_name_whatever_is_in_it(app: ServingApp, name: str) -> None:
    model = app.client().models.retrieve(name)
    assert (model.id, model.object) == (name, "model")
    raw = httpx.get(f"{app.url}/v1/models/{name}", headers={"Authorization": f"Bearer {app.key()}"})
    assert raw.json()["id"] == name


def test_deleting_takes_a_name_away_at_once(own_app: ServingApp) -> None:
    client = own_app.client()
    for name in (OLD, NEW):
        assert _chat(client, name).model == name
        deleted = client.models.delete(name)
        assert (deleted.id, deleted.object, deleted.deleted) == (name, "model", True)
        for ask in (client.models.retrieve, client.models.delete, lambda name: _chat(client, name)):
            with pytest.raises(openai.NotFoundError) as missing:
                ask(name)
            assert missing.value.code == "model_not_found"
    assert [model.id for model in client.models.list()] == [BASE]


def test_the_asynchronous_sdk(own_app: ServingApp) -> None:
    async def use() -> None:
        async with own_app.asynchronous() as client:
            assert [model.id async for model in client.models.list()] == [NEW, OLD, BASE]
            assert (await client.models.retrieve(NEW)).id == NEW
            assert (await client.models.delete(NEW)).deleted

    asyncio.run(use())


def test_a_base_is_not_deleted(app: ServingApp) -> None:
    with pytest.raises(openai.PermissionDeniedError):
        app.client().models.delete(BASE)
    assert app.client().models.retrieve(BASE).id == BASE


def test_another_projects_model_is_told_of_as_one_that_never_was(app: ServingApp) -> None:
    client, unknown = app.client(), THEIRS.replace("c", "d")
    assert THEIRS not in [model.id for model in client.models.list()]
    for ask in (client.models.retrieve, client.models.delete, lambda name: _chat(client, name)):
        told = []
        for name in (THEIRS, unknown):
            with pytest.raises(openai.NotFoundError) as missing:
                ask(name)
            told.append(missing.value.response.text.replace(name, "X"))
        assert told[0] == told[1]
        assert "The model `X` does not exist or you do not have access to it." in told[0]
    assert _chat(app.client(app.key("two")), THEIRS).model == THEIRS


def test_an_adapter_or_merged_model_of_a_project_is_no_name_for_others(app: ServingApp) -> None:
    """Servers know it by that name, and would answer."""
    other = app.client(app.key("two"))
    for name in (ADAPTER, MERGED, STORED):
        with pytest.raises(openai.NotFoundError):
            _chat(other, name)
    assert _chat(app.client(), MERGED).model == MERGED


def test_what_the_operator_published_is_for_everybody(app: ServingApp) -> None:
    assert _chat(app.client(app.key("two")), PUBLISHED).model == PUBLISHED


def test_a_model_without_a_server_says_what_to_configure(own_app: ServingApp) -> None:
    own_app.add_model("ft:a", "merged-a", merged=True)
    own_app.add_model("ft:b", "adapter-b", base="other--base")
    for name, wanted in (("ft:a", "`model: merged-a`"), ("ft:b", "`base: other--base`")):
        with pytest.raises(openai.InternalServerError) as refused:
            _chat(own_app.client(), name)
        assert refused.value.status_code == 503 and refused.value.code == "model_not_served"
        assert wanted in str(refused.value)


def test_a_checkpoint_is_served_once_it_has_an_adapter(app: ServingApp) -> None:
    with_one, without = f"{OLD}:ckpt-step-10", f"{OLD}:ckpt-step-20"
    app.add_checkpoint(with_one, ADAPTER)
    app.add_checkpoint(without, None)
    assert _chat(app.client(), with_one).model == with_one
    with pytest.raises(openai.NotFoundError, match="not served yet") as missing:
        _chat(app.client(), without)
    assert missing.value.code == "model_not_found"
    for name in (with_one, without):
        with pytest.raises(openai.NotFoundError, match="does not exist or you do not have access"):
            _chat(app.client(app.key("two")), name)


@pytest.mark.parametrize("scope", ["chat", "tune", "admin"])
def test_whoever_may_chat_or_tune_may_look(app: ServingApp, scope: str) -> None:
    assert app.client(app.key("one", scope)).models.retrieve(OLD).id == OLD


def test_scopes_are_asked_for_before_anything_is_looked_up(app: ServingApp) -> None:
    files, chat = app.client(app.key("one", "files")), app.client(app.key("one", "chat"))
    for name in (OLD, "no-such"):
        for ask in (files.models.retrieve, files.models.delete, chat.models.delete):
            with pytest.raises(openai.PermissionDeniedError):
                ask(name)
    with pytest.raises(openai.PermissionDeniedError):
        files.models.list()
    with pytest.raises(openai.AuthenticationError):
        app.client("wrong").models.retrieve(OLD)


@pytest.mark.parametrize("name", ["%00", "a%00b", "%ff", "%C3%BC" * 300, "..%2f..", "%20"])
def test_a_name_that_is_none_is_not_found(app: ServingApp, name: str) -> None:
    headers = {"Authorization": f"Bearer {app.key()}"}
    for method in ("GET", "DELETE"):
        assert httpx.request(method, f"{app.url}/v1/models/{name}", headers=headers).status_code == 404


def test_presence_tells_whether_a_server_has_it(upstream: StandIn) -> None:
    listings = Listings(_settings(upstream.url))
    adapter = listings.presence(base="demo:tiny", served_as=ADAPTER, merged=False)
    merged = listings.presence(base=STORED, served_as=MERGED, merged=True)
    assert (adapter.state, merged.state) == ("served", "served")
    later = listings.presence(base=STORED, served_as="not-yet", merged=False)
    assert later.state == "waiting" and "does not list not-yet yet" in later.message
    down = Listings(_settings("http://127.0.0.1:9")).presence(base=STORED, served_as=ADAPTER, merged=False)
    assert down.state == "waiting" and "cannot be reached" in down.message
    for merged_too, wanted in ((False, "`base: other`"), (True, f"`model: {ADAPTER}`")):
        nobody = listings.presence(base="other", served_as=ADAPTER, merged=merged_too)
        assert nobody.state == "nobody" and wanted in nobody.message


@pytest.mark.parametrize(
    "status, told, reason",
    [
        (503, {"error": {"message": "not ready: loading"}}, "answers 503: not ready: loading"),
        (401, {"error": {"message": "no"}}, "refuses the key; the environment's STAND_IN_KEY must hold one"),
        (500, "<html>", "answers 500 with nothing that can be read"),
        (200, {"data": 3}, "answers 200 with nothing that can be read"),
    ],
)
def test_presence_tells_why_a_server_has_it_not(
    upstream: StandIn, monkeypatch: pytest.MonkeyPatch, status: int, told: Any, reason: str
) -> None:
    monkeypatch.setattr(upstream, "listing", (status, told))
    waiting = Listings(_settings(upstream.url)).presence(base=STORED, served_as=ADAPTER, merged=False)
    assert waiting.state == "waiting" and reason in waiting.message


@contextmanager
def _app(upstream: StandIn, folder: Path) -> Iterator[ServingApp]:
    servers = [{"base": STORED}, {"model": MERGED}, {"model": PUBLISHED}]
    with serving_app(folder, *({"url": upstream.url} | server for server in servers)) as here:
        here.add_model(OLD, ADAPTER, created_at=100)
        here.add_model(NEW, MERGED, created_at=200, merged=True)
        here.add_model(THEIRS, ADAPTER, project="two")
        yield here


def _settings(url: str) -> Settings:
    servers = [{"url": url, "base": STORED, "key_variable": "STAND_IN_KEY"}, {"url": url, "model": MERGED}]
    return Settings.model_validate({"servers": servers})


def _chat(client: openai.OpenAI, name: str) -> Any:
    return client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Count"}])
