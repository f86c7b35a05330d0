"""What the isolation matrix is made of: the routes, asked of the app itself, and one thing of each kind.

Whoever adds a route is told here to say which scope it wants, and what another project's id would be in it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import httpx
from api_app import Api
from api_files_samples import GOOD
from fastapi.routing import APIRoute
from sqlalchemy import select

from hone_api.app import make_app
from hone_api.database.tables import Event, Job, Model, Permission, Project
from hone_api.ids import new_id
from hone_api.services import Services
from hone_api.settings import Settings

Ids = dict[str, str]
NAME = "secret-name.jsonl"
OPEN = {"/health", "/ready", "/metrics", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
"""What needs no key; tests below say what it tells."""
WANTED = {
    "files": {"files"},
    "uploads": {"files"},
    "fine_tuning": {"tune"},
    "checkpoints": {"admin"},
    "models": {"chat", "tune"},
    "DELETE models": {"tune"},
    "chat": {"chat"},
    "completions": {"chat"},
    "responses": {"chat"},
}
"""Any of these scopes opens what is below `/v1/` and this word; of `checkpoints`, below `fine_tuning/`."""
UPLOAD = {"bytes": len(GOOD), "filename": NAME, "mime_type": "text/plain", "purpose": "fine-tune"}
BODIES: dict[str, Callable[[Ids], dict[str, Any]]] = {
    "/v1/files": lambda _: {"files": {"file": (NAME, GOOD)}, "data": {"purpose": "fine-tune"}},
    "/v1/uploads": lambda _: {"json": UPLOAD},
    "/v1/uploads/{upload_id}/parts": lambda _: {"files": {"data": ("a", b"x")}},
    "/v1/uploads/{upload_id}/complete": lambda ids: {"json": {"part_ids": [ids["part_id"]]}},
    "/v1/fine_tuning/jobs": lambda ids: {"json": {"model": "stand-in", "training_file": ids["file_id"]}},
    "/v1/fine_tuning/jobs/{job_id}/cancel": lambda _: {},
    "/v1/fine_tuning/jobs/{job_id}/pause": lambda _: {},
    "/v1/fine_tuning/jobs/{job_id}/resume": lambda _: {},
    "/v1/uploads/{upload_id}/cancel": lambda _: {},
    "/v1/fine_tuning/checkpoints/{model:path}/permissions": lambda ids: {
        "json": {"project_ids": [ids.get("project", "none")]}
    },
    "/v1/chat/completions": lambda ids: {"json": {"model": ids["model"], "messages": []}},
    "/v1/completions": lambda ids: {"json": {"model": ids["model"], "prompt": "Hi"}},
    "/v1/responses": lambda ids: {"json": {"model": ids["model"], "input": "Hi"}},
}
"""Right ones, of which each that can name a thing does."""
_SHARED = "/v1/fine_tuning/checkpoints/"
BROKEN: dict[str, Any] = {"content": b'{"model": ', "headers": {"Content-Type": "application/json"}}
NAMES = ("file_id", "upload_id", "part_id", "job_id", "event", "model", "project", "permission_id")
NONE = dict.fromkeys(NAMES, "none")


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    params: tuple[str, ...]
    queries: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def wanted(self) -> set[str]:
        below = "checkpoints" if self.path.startswith(_SHARED) else self.path.split("/")[2]
        return WANTED.get(f"{self.method} {below}", WANTED[below])

    @property
    def names_something(self) -> bool:
        return bool(self.params) or self.body(NONE) != self.body(dict.fromkeys(NONE, "other"))

    def body(self, ids: Ids) -> dict[str, Any]:
        return BODIES[self.path](ids) if self.method == "POST" else {}

    def at(self, ids: Ids) -> str:
        """The path with these in it."""
        return self.path.replace("{model:path}", "{model}").format(**ids)

    def ask(self, client: httpx.Client, ids: Ids, **more: Any) -> httpx.Response:
        asked: dict[str, Any] = {**self.body(ids), **more} if "content" not in more else more
        return client.request(self.method, self.at(ids), **asked)


def _routes() -> Iterator[Route]:
    app = make_app(cast(Services, SimpleNamespace(settings=Settings(), database=None, reporter=None)))
    for each in app.routes:
        path: str = getattr(each, "path")  # noqa: B009 - mounts have none, and would fail here
        if path not in OPEN:
            assert isinstance(each, APIRoute), each
            names = tuple(field.name for field in each.dependant.path_params)
            queries = tuple(field.alias for field in each.dependant.query_params)
            for method in sorted(each.methods):
                yield Route(method, path, names, queries)


ROUTES = list(_routes())


def client_with(api: Api, *authorization: str) -> httpx.Client:
    headers = [("Authorization", each) for each in authorization]
    return httpx.Client(base_url=api.url, headers=headers, timeout=30, verify=False)


def make_things(api: Api, project: str) -> Ids:
    """One of each that can be asked for by an id."""
    with client_with(api, f"Bearer {api.key(project)}") as client:
        file_id = client.post("/v1/files", **BODIES["/v1/files"](NONE)).json()["id"]
        upload_id = client.post("/v1/uploads", json=UPLOAD).json()["id"]
        part_id = client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("a", GOOD)}).json()["id"]
        asked = {"model": "stand-in", "training_file": file_id, "metadata": {"team": "secret"}}
        job_id = client.post("/v1/fine_tuning/jobs", json=asked).json()["id"]
    model = f"ft:stand-in:hone:secret:{job_id[-8:]}"
    with api.services.database.writing() as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
        event = session.scalars(select(Event.id).where(Event.job_number == job.number)).first() or ""
        made = {"created_at": 1, "base": "demo--tiny", "served_as": "a", "merged": False}
        session.add(Model(id=model, project_id=job.project_id, job_number=job.number, **made))
        # They share it with a project of their own.
        shared = Project(id=new_id("proj_"), name=f"friend of {job_id}", created_at=1)
        session.add(shared)
        session.flush()
        permission = Permission(id=new_id("cp_"), model=model, project_id=shared.id, created_at=1)
        session.add(permission)
    told = {"file_id": file_id, "upload_id": upload_id, "part_id": part_id}
    told |= {"job_id": job_id, "event": event, "model": model}
    return told | {"project": shared.id, "permission_id": permission.id}


def unknown(ids: Ids) -> Ids:
    """Of the same form, and of nothing."""
    return {name: f"{value[:-4]}0000" for name, value in ids.items()}


def same(told: httpx.Response, ids: Ids) -> tuple[object, ...]:
    """All of an answer but the ids that were asked for and what every answer has of its own."""
    own = ("date", "x-request-id", "content-length")
    text = told.text
    for name, value in ids.items():
        text = text.replace(value, name)
    return told.status_code, text, [each for each in told.headers.items() if each[0] not in own]


def is_refused(told: httpx.Response, status: int, code: str) -> None:
    assert told.status_code == status, told.text
    error = told.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["code"] == code
    assert told.headers["x-request-id"].startswith("req_")
