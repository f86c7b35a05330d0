"""Models and checkpoints that are shared with other projects, through the unmodified SDK."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_serving_app import ASK, BASE, STORED, ServingApp, serving_app
from api_upstream import stand_in
from openai import OpenAI
from sqlalchemy import select

from hone_api.database.tables import Permission, Project

ADAPTER, MADE = "hone-faq-0123456789", "hone-faq-step-3-0123456789"
MODEL = "ft:demo/tiny:hone:ünï/x:aaaaaaaa"
STEP, DELETED = f"{MODEL}:ckpt-step-3", "ft:demo/tiny:hone::bbbbbbbb"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingApp]:
    folder = tmp_path_factory.mktemp("api")
    with (
        stand_in(STORED, ADAPTER, MADE) as upstream,
        serving_app(folder, {"url": upstream.url, "base": STORED}) as here,
    ):
        here.add_model(MODEL, ADAPTER)
        here.add_model(DELETED, ADAPTER)
        here.add_checkpoint(STEP, MADE)
        yield here


def project(app: ServingApp, name: str) -> str:
    app.key(name)
    with app.database.reading() as session:
        return session.scalars(select(Project.id).where(Project.name == name)).one()


def permissions_of(client: OpenAI) -> Any:
    return client.fine_tuning.checkpoints.permissions


def chat(client: OpenAI, name: str) -> str:
    return client.chat.completions.create(model=name, messages=ASK).model


@pytest.mark.parametrize("name", [MODEL, STEP])
def test_a_shared_model_can_be_asked_until_it_is_shared_no_more(app: ServingApp, name: str) -> None:
    owner, guest = permissions_of(app.client(app.key("one", "admin"))), app.client(app.key("two", "admin"))
    with pytest.raises(openai.NotFoundError):
        chat(guest, name)
    (made,) = owner.create(name, project_ids=[project(app, "two")]).data
    assert (made.id[:3], made.project_id) == ("cp_", project(app, "two"))
    assert chat(guest, name) == name
    # It is theirs to ask, and to nothing else.
    for ask in (
        lambda: permissions_of(guest).create(name, project_ids=[project(app, "three")]),
        lambda: permissions_of(guest).list(name),
        lambda: permissions_of(guest).delete(made.id, fine_tuned_model_checkpoint=name),
        lambda: guest.models.delete(name),
        lambda: chat(app.client(app.key("three")), name),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            ask()
        assert missing.value.code == "model_not_found"
    gone = owner.delete(made.id, fine_tuned_model_checkpoint=name)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "checkpoint.permission")
    with pytest.raises(openai.NotFoundError):
        chat(guest, name)
    with pytest.raises(openai.NotFoundError, match="No such permission"):
        owner.delete(made.id, fine_tuned_model_checkpoint=name)


def test_a_shared_model_is_listed_without_its_owners_name_until_it_is_deleted(app: ServingApp) -> None:
    owner, guest = app.client(app.key("one", "admin")), app.client(app.key("four"))
    permissions_of(owner).create(DELETED, project_ids=[project(app, "four")])
    assert [(each.id, each.owned_by) for each in guest.models.list()] == [(DELETED, "hone"), (BASE, "hone")]
    assert guest.models.retrieve(DELETED).owned_by == "hone"
    assert owner.models.retrieve(DELETED).owned_by == "hone/one"
    assert chat(guest, DELETED) == DELETED
    owner.models.delete(DELETED)
    with pytest.raises(openai.NotFoundError):
        chat(guest, DELETED)
    assert [each.id for each in guest.models.list()] == [BASE]
    with app.database.reading() as session:
        assert session.scalars(select(Permission).where(Permission.model == DELETED)).all() == []


def test_permissions_are_listed_in_pages_in_either_order_and_of_one_project(app: ServingApp) -> None:
    client = app.client(app.key("one", "admin"))
    owner = permissions_of(client)
    projects = [project(app, f"project {number}") for number in range(4)]
    made = owner.create(MODEL, project_ids=[*projects[:3], projects[0]]).data
    assert [each.project_id for each in made] == projects[:3]
    again = owner.create(MODEL, project_ids=projects[2:]).data
    assert again[0].id == made[2].id
    ids = [each.id for each in (*made, again[1])]
    owner.create(STEP, project_ids=projects[:1])
    for limit in (1, 3, 4):
        assert [each.id for each in owner.list(MODEL, limit=limit)] == ids[::-1]
        assert [each.id for each in owner.list(MODEL, limit=limit, order="ascending")] == ids
    assert [each.id for each in owner.list(MODEL, project_id=projects[1])] == [ids[1]]
    assert owner.list(MODEL, project_id="proj_none").data == []
    with pytest.warns(DeprecationWarning):
        page = owner.retrieve(MODEL, after=ids[2], limit=1)
    assert ([each.id for each in page.data], page.has_more, page.last_id) == ([ids[1]], True, ids[1])
    with pytest.raises(openai.NotFoundError, match="No such permission"):
        owner.list(MODEL, after=owner.list(STEP).data[0].id)

    async def listed() -> list[str]:
        async with app.asynchronous(client.api_key) as other:
            pages = other.fine_tuning.checkpoints.permissions.list(MODEL, limit=2)
            return [each.id async for each in pages]

    assert asyncio.run(listed()) == ids[::-1]


def test_what_cannot_be_is_refused(app: ServingApp) -> None:
    owner = permissions_of(app.client(app.key("one", "admin")))
    for asked, param in (
        ([], "project_ids"),
        (["proj_none"], "project_ids"),
        (["a\0b"], "project_ids.0"),
        ([project(app, "two"), "é"], "project_ids"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            owner.create(MODEL, project_ids=asked)
        assert refused.value.param == param
    assert project(app, "two") not in [each.project_id for each in owner.list(MODEL)]
    for name in (BASE, "ft:none"):
        with pytest.raises(openai.NotFoundError):
            owner.create(name, project_ids=[project(app, "two")])
    with pytest.raises(openai.PermissionDeniedError):
        permissions_of(app.client(app.key("one", "chat", "tune", "files"))).list(MODEL)
