"""Every route of the app with every kind of key that must not open it."""

from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from api_app import Api, running_api
from api_files_samples import GOOD
from api_matrix import BROKEN, NAME, ROUTES, Ids, Route, client_with, is_refused, make_things, same, unknown
from sqlalchemy import select

from hone_api.database.tables import Key
from hone_api.keys import SCOPES, Scope, digest, revoke_key

# Each route with each key, several hundred requests.
pytestmark = pytest.mark.chain

every_route = pytest.mark.parametrize("route", ROUTES, ids=str)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Api]:
    folder, models = tmp_path_factory.mktemp("api"), {"stand-in": {"base": "demo:tiny"}}
    with running_api(folder, database=database_url, models=models) as running:
        yield running


@pytest.fixture(scope="module")
def theirs(api: Api) -> Ids:
    """What another project has."""
    return make_things(api, "other")


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[httpx.Client]:
    """With a key of project `one` that opens all of its own."""
    with client_with(api, f"Bearer {api.key('one')}") as made:
        yield made


def revoked(api: Api) -> str:
    key = api.key("other", "admin")
    with api.services.database.writing() as session:
        revoke_key(session, session.scalars(select(Key.id).where(Key.digest == digest(key))).one())
    return key


def test_the_routes_are_found() -> None:
    assert len(ROUTES) >= 26


@every_route
def test_without_a_valid_key_nobody_learns_anything(api: Api, theirs: Ids, route: Route) -> None:
    key = api.key("other", "admin")
    shown = {
        "none": [],
        "wrong": ["Bearer hone-wrong"],
        "revoked": [f"Bearer {revoked(api)}"],
        "empty": ["Bearer"],
        "another scheme": [f"Basic {key}"],
        "two": [f"Bearer {key}", f"Bearer {key}"],
        "not ASCII": [b"Bearer hone-\xe9"],
    }
    answers = []
    for authorization in shown.values():
        with client_with(api, *authorization) as stranger:
            answers.append(route.ask(stranger, theirs, **BROKEN))
    with client_with(api) as stranger:
        answers.append(route.ask(stranger, theirs))
    for told in answers:
        is_refused(told, 401, "invalid_api_key")
        assert told.headers["www-authenticate"] == "Bearer"
        assert same(told, {}) == same(answers[0], {})


@every_route
def test_without_the_scope_nothing_is_looked_at(api: Api, theirs: Ids, route: Route) -> None:
    others: list[Any] = [each for each in SCOPES if each not in {*route.wanted, "admin"}]
    for project in ("one", "other"):
        with client_with(api, f"Bearer {api.key(project, *others)}") as client:
            is_refused(route.ask(client, theirs), 403, "insufficient_permissions")
            is_refused(route.ask(client, unknown(theirs), **BROKEN), 403, "insufficient_permissions")


@every_route
def test_each_scope_that_is_wanted_opens_and_so_does_admin(api: Api, route: Route) -> None:
    for scope in sorted({*route.wanted, "admin"}):
        things = make_things(api, "owner")
        with client_with(api, f"Bearer {api.key('owner', cast(Scope, scope))}") as client:
            told = route.ask(client, things)
            # No server is configured, and no job is paused, which whoever may is told.
            is_open = any(each in told.text for each in ("model_not_served", "can be resumed"))
            assert told.status_code == 200 or is_open, (scope, told.text)


# -- another project's -----------------------------------------------------------------------------


@pytest.mark.parametrize("route", [each for each in ROUTES if each.names_something], ids=str)
@pytest.mark.parametrize("scope", ["all", "admin"])
def test_another_projects_id_is_that_of_nothing(api: Api, theirs: Ids, route: Route, scope: str) -> None:
    scopes: tuple[Scope, ...] = ("admin",) if scope == "admin" else ()
    with client_with(api, f"Bearer {api.key('one', *scopes)}") as client:
        told, none = route.ask(client, theirs), route.ask(client, unknown(theirs))
    assert same(told, theirs) == same(none, unknown(theirs))
    # A job is asked for with the file's name in its body.
    wanted = 400 if str(route) == "POST /v1/fine_tuning/jobs" else 404
    assert told.status_code == (403 if route.wanted == {"admin"} != {scope} else wanted), told.text


def test_nothing_of_it_was_changed(api: Api, theirs: Ids) -> None:
    with client_with(api, f"Bearer {api.key('other')}") as owner:
        assert owner.get(f"/v1/files/{theirs['file_id']}/content").content == GOOD
        assert owner.get(f"/v1/fine_tuning/jobs/{theirs['job_id']}").json()["status"] == "validating_files"
        assert owner.get(f"/v1/models/{theirs['model']}").status_code == 200
        path, body = f"/v1/uploads/{theirs['upload_id']}/complete", {"part_ids": [theirs["part_id"]]}
        assert owner.post(path, json=body).json()["status"] == "completed"


@pytest.mark.parametrize(
    "route", [each for each in ROUTES if each.method == "GET" and not each.params], ids=str
)
def test_lists_have_nothing_of_others(client: httpx.Client, theirs: Ids, route: Route) -> None:
    told = route.ask(client, theirs, params={"metadata[team]": "secret", "limit": 100})
    assert told.status_code == 200
    assert not [value for value in (*theirs.values(), NAME) if value in told.text]
    assert [each for each in told.json()["data"] if each["id"] != "stand-in"] == []


@pytest.mark.parametrize("route", [each for each in ROUTES if "after" in each.queries], ids=str)
def test_no_page_begins_after_what_is_another_projects(api: Api, theirs: Ids, route: Route) -> None:
    mine = make_things(api, "pages")
    with client_with(api, f"Bearer {api.key('pages', 'admin')}") as client:
        for name, value in theirs.items():
            told = route.ask(client, mine, params={"after": value})
            none = route.ask(client, mine, params={"after": unknown(theirs)[name]})
            assert same(told, {"id": value}) == same(none, {"id": unknown(theirs)[name]})
            assert told.status_code in (400, 404)


def test_another_projects_part_is_no_part(api: Api, theirs: Ids) -> None:
    mine = make_things(api, "parts")
    with client_with(api, f"Bearer {api.key('parts')}") as client:
        path, answers = f"/v1/uploads/{mine['upload_id']}/complete", []
        for ids in (theirs, unknown(theirs)):
            told = client.post(path, json={"part_ids": [ids["part_id"]]})
            answers.append(same(told, {"part": ids["part_id"]}))
        assert answers[0] == answers[1] and answers[0][0] == 400


# -- what is open to all ---------------------------------------------------------------------------


def test_health_tells_only_that_it_lives(api: Api) -> None:
    with client_with(api) as stranger:
        assert stranger.get("/health").json() == {"status": "ok"}
        assert stranger.get("/ready").json() == {"status": "ready"}


def test_metrics_tell_no_key_no_id_and_no_name(api: Api, theirs: Ids, client: httpx.Client) -> None:
    """Numbers of all projects together, by route, method, status and state, and by keys' ids: whoever must
    not see them is kept from the path by a proxy, which is where Prometheus' own access is decided too."""
    client.get(f"/v1/files/{theirs['file_id']}")
    client.request("GET-SECRET-NAME", "/v1/nowhere/secret-name")
    with client_with(api) as stranger:
        told = stranger.get("/metrics").text
        described = stranger.get("/openapi.json").text
    assert 'route="/v1/files/{file_id}"' in told
    for value in (*theirs.values(), client.headers["authorization"][7:], "secret", "hone-", "SECRET"):
        assert value not in told and value not in described
