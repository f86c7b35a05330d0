"""Whatever is sent to whichever route: no mistake of ours, and every refusal in OpenAI's shape.

schemathesis makes requests from what the app says of itself, right ones and wrong ones. What it is not likely
to come upon is written out below: each of these has broken an API somewhere.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from api_app import Api, running_api
from api_matrix import NONE, ROUTES, Ids, Route, client_with, make_things
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

pytestmark = [pytest.mark.chain]

EXAMPLES = 25
"""Of each operation, and kind."""
OPERATIONS = [str(each) for each in ROUTES]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Api]:
    folder, models = tmp_path_factory.mktemp("api"), {"stand-in": {"base": "demo:tiny"}}
    limits = {"body_seconds": 5, "project_jobs": 10_000}
    with running_api(folder, database=database_url, models=models, limits=limits) as running:
        yield running


@pytest.fixture
def things(api: Api) -> Ids:
    """For each test, since a walk deletes what it finds."""
    return make_things(api, "one")


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[httpx.Client]:
    with client_with(api, f"Bearer {api.key('one', 'admin')}") as made:
        yield made


@pytest.fixture(scope="module")
def operations(api: Api) -> dict[str, Any]:
    """By method and path, as the matrix calls them."""
    described = schemathesis.openapi.from_url(f"{api.url}/openapi.json").get_all_operations()
    found = [each.ok() for each in described if isinstance(each, Ok)]
    return {f"{each.method.upper()} {each.path}": each for each in found}


def is_fine(status: int, body: bytes, headers: Any, sent: object) -> None:
    """Raises AssertionError with what was sent."""
    told = (status, body[:500], sent)
    assert status < 500 or b"model_not_served" in body, told
    assert headers["x-request-id"].startswith("req_"), told
    if status < 400:
        return
    assert headers["content-type"] == "application/json", told
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}, told
    assert error["message"] and isinstance(error["type"], str), told
    assert isinstance(error["param"], str | None) and isinstance(error["code"], str | None), told


def test_the_description_has_every_route(operations: dict[str, Any]) -> None:
    assert {each.replace("{model:path}", "{model}") for each in OPERATIONS} == operations.keys()


@pytest.mark.parametrize(
    ("route", "mode"),
    [(each, GenerationMode.POSITIVE) for each in ROUTES]
    # Whatever is said for an id alone is an id, if of nothing.
    + [(each, GenerationMode.NEGATIVE) for each in ROUTES if each.queries or each.body(NONE)],
    ids=str,
)
def test_no_request_is_answered_with_a_mistake(
    api: Api, operations: dict[str, Any], things: Ids, route: Route, mode: GenerationMode
) -> None:
    operation = operations[str(route).replace("{model:path}", "{model}")]
    real = {name: things[name] for name in route.params}
    cases = operation.as_strategy(mode)
    if real:
        # With ids that schemathesis makes up, only that there is no such thing would be tried.
        cases = st.one_of(cases, operation.as_strategy(mode, path_parameters=real))
    key = {"Authorization": f"Bearer {api.key('one', 'admin')}"}

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def walk(case: Any) -> None:
        told = case.call(base_url=api.url, headers=key, session=session)
        is_fine(told.status_code, told.content, {k: v[0] for k, v in told.headers.items()}, case)

    with requests.Session() as session:
        walk()


# -- by hand ---------------------------------------------------------------------------------------

NUL, HALF = "a\0b", "a\ud800b"
NUMBERS = [0, -1, 2**31, 2**63, 10**400, -(10**400), 1e400, 0.1, True]
STRANGE: list[Any] = [NUL, HALF, "", " ", "x" * 5000, "\n", "٣", None, [], {}, [[]], {"a": {}}, *NUMBERS]
JOB = ("model", "training_file", "validation_file", "suffix", "seed", "metadata", "integrations", "method")
UPLOAD = ("bytes", "filename", "mime_type", "purpose", "expires_after")
POSTED = [each for each in ROUTES if each.body(NONE)]


def is_all_fine(client: httpx.Client, method: str, path: str, **sent: Any) -> httpx.Response:
    told = client.request(method, path, **sent)
    is_fine(told.status_code, told.content, told.headers, (method, path, sent))
    return told


def as_json(value: object) -> dict[str, Any]:
    """As no tidy client writes it: halves of characters, and numbers that are none."""
    return {"content": json.dumps(value).encode(), "headers": {"Content-Type": "application/json"}}


@pytest.mark.parametrize("field", JOB)
def test_strange_values_in_a_job(client: httpx.Client, things: Ids, field: str) -> None:
    right: dict[str, Any] = {"model": "stand-in", "training_file": things["file_id"]}
    nested = {"metadata": [{each: "x"} for each in (NUL, HALF, "")] + [{"x": each} for each in STRANGE]}
    nested["integrations"] = [[{"type": each}] for each in STRANGE]
    nested["method"] = [{"type": each} for each in STRANGE]
    nested["method"] += [{"type": "reinforcement", "reinforcement": {HALF: HALF, NUL: NUL}}]
    nested["method"] += [{"type": "dpo", "dpo": {"hyperparameters": {"beta": each}}} for each in STRANGE]
    nested["method"] += [
        {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": each}}} for each in STRANGE
    ]
    assert is_all_fine(client, "POST", "/v1/fine_tuning/jobs", **as_json(right)).status_code == 200
    for value in STRANGE + nested.get(field, []):
        told = is_all_fine(client, "POST", "/v1/fine_tuning/jobs", **as_json({**right, field: value}))
        if NUL in str(value) or HALF in str(value):
            assert told.status_code == 400, (value, told.text)


@pytest.mark.parametrize("field", UPLOAD)
def test_strange_values_in_an_upload(client: httpx.Client, field: str) -> None:
    right = {"bytes": 1, "filename": "a.jsonl", "mime_type": "text/plain", "purpose": "fine-tune"}
    more: list[Any] = [{"anchor": each, "seconds": each} for each in STRANGE]
    for value in STRANGE + more:
        told = is_all_fine(client, "POST", "/v1/uploads", **as_json({**right, field: value}))
        if value in (NUL, HALF):
            assert told.status_code == 400, (value, told.text)
        if told.status_code == 200:
            client.post(f"/v1/uploads/{told.json()['id']}/cancel")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_strange_values_where_requests_are_handed_on(client: httpx.Client, path: str) -> None:
    for value in STRANGE:
        is_all_fine(client, "POST", path, **as_json({"model": value}))


@pytest.mark.parametrize("route", POSTED, ids=str)
def test_bodies_that_are_none(client: httpx.Client, things: Ids, route: Route) -> None:
    path = route.at(things)
    bodies = [b"", b"{", b"[]", b"null", b'"x"', b"1", b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN", b"\0" * 10]
    bodies += [b"[" * 100_000, b'{"a":' * 100_000, b'{"model": 1' + b"0" * 5000 + b"}", b'{"a": 1, "a": 2}']
    bodies += [b'{"\\ud800": 1}', b'{"\\u0000": 1}', b'{"model": "\\ud800"}', b'{"model": "\\u0000"}']
    kinds = ["application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=x"]
    kinds += ["", "application/json; charset=utf-16", "application/x-www-form-urlencoded", "what"]
    for body, kind in [(body, kinds[0]) for body in bodies] + [(bodies[1], kind) for kind in kinds[1:]]:
        told = is_all_fine(client, "POST", path, content=body, headers={"Content-Type": kind})
        assert told.status_code in (400, 404, 413, 415), (body[:100], kind, told.text)


@pytest.mark.parametrize("route", [each for each in ROUTES if each.params], ids=str)
def test_ids_that_are_none(client: httpx.Client, route: Route) -> None:
    strange = [
        "%00",
        "a%00b",
        "%ff",
        "%ed%a0%80",
        "..",
        "%2e%2e%2f",
        "%0a",
        "x" * 5000,
        "%F0%9F%98%80",
        "%25",
    ]
    for name in strange:
        path = route.at(dict.fromkeys(route.params, name))
        told = is_all_fine(client, route.method, path, **route.body({"part_id": "x"}))
        assert told.status_code in (404, 405), (path, told.text)


@pytest.mark.parametrize("route", [each for each in ROUTES if each.queries], ids=str)
def test_queries_that_are_none(client: httpx.Client, things: Ids, route: Route) -> None:
    path = route.at(things)
    for value in ["%00", "a%00b", "%ff", "", "x" * 5000, "%ed%a0%80", "1e400", "9" * 5000]:
        for name in (*route.queries, "metadata", "metadata[x]", "metadata[%00]", "metadata[]", "%00"):
            is_all_fine(client, "GET", f"{path}?{name}={value}")
        is_all_fine(client, "GET", f"{path}?{value}&{value}={value}")


@pytest.mark.parametrize("route", POSTED, ids=str)
def test_headers_that_are_none(client: httpx.Client, things: Ids, route: Route) -> None:
    strange = [b"\xff", b"9" * 5000, b"-1", b"x", b"1.5", b"x" * 300]
    for name in ("x-stainless-retry-count", "idempotency-key", "content-encoding", "accept", "x-request-id"):
        for value in strange:
            path = route.at(things)
            is_all_fine(client, "POST", path, headers={name: value}, content=b"{}")


def test_what_there_is_not_is_told_in_the_same_shape(client: httpx.Client, things: Ids) -> None:
    assert is_all_fine(client, "GET", "/v1/nothing").status_code == 404
    assert is_all_fine(client, "GET", "/").status_code == 404
    assert is_all_fine(client, "GET", "/v1/files/").status_code == 404
    for route in ROUTES:
        path = route.at(things)
        assert is_all_fine(client, "GET", path + "/").status_code == 404
        for method in ("PUT", "PATCH", "TRACE", "PROPFIND"):
            told = is_all_fine(client, method, path)
            assert told.status_code == 405 and told.headers["allow"]
