"""From the name that a client says to the server that has the model, and to its name there.

Whoever asks for another project's model learns no more than whoever asks for one that never was.
"""

import time
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from hone_api.database.session import Database
from hone_api.database.tables import Checkpoint, Job, Model
from hone_api.errors import ApiError
from hone_api.jobs.permissions import owner_of
from hone_api.settings import Settings, Upstream
from hone_contract.store import base_name

_REMEMBERED = 3.0
"""Seconds for which a found name is not looked up again."""
_MOST = 10_000
_LONGEST = 512


@dataclass(frozen=True)
class Destination:
    """Where a request goes."""

    servers: tuple[Upstream, ...]
    """Any of them."""
    model: str
    """What they call it."""


class Names:
    """The settings' names and the database's, those of the last seconds by heart."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._known: dict[tuple[str, str], tuple[float, Destination]] = {}
        self._forgotten = 0

    async def find(self, project_id: str, name: str) -> Destination:
        """Raises ApiError: there is no such model for this project, or no server for it."""
        until, known = self._known.get((project_id, name), (0.0, None))
        now = time.monotonic()
        if known is not None and now < until:
            return known
        forgotten = self._forgotten
        found = await run_in_threadpool(self._look_up, project_id, name)
        # What was deleted meanwhile may have been read before.
        if forgotten == self._forgotten:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[project_id, name] = (now + _REMEMBERED, found)
        return found

    def forget(self, name: str) -> None:
        """Have it looked up again, whoever asks: it was deleted, or is not shared any more."""
        self._forgotten += 1
        for known in [each for each in self._known if each[1] == name]:
            del self._known[known]

    def _look_up(self, project_id: str, name: str) -> Destination:
        if not can_be_a_name(name):
            raise unknown_model(name)
        with self._database.reading() as session:
            owner = owner_of(session, project_id, name)
            model = find_model(session, owner, name)
            if model is not None:
                return self._fine_tuned(model)
            checkpoint = _checkpoint(session, owner, name)
            if checkpoint is not None:
                return self._checkpoint(*checkpoint)
            if name in self._settings.models:
                return self._base(name)
            servers = tuple(server for server in self._settings.every_server if server.model == name)
            if servers and _is_free(session, project_id, name):
                return Destination(servers, name)
        raise unknown_model(name)

    def _fine_tuned(self, model: Model) -> Destination:
        if not model.merged:
            return self._with_base(model.id, model.base, model.served_as)
        servers = servers_of(self._settings, base=model.base, served_as=model.served_as, merged=True)
        if not servers:
            raise _not_served(model.id, f"model: {model.served_as}")
        return Destination(servers, model.served_as)

    def _checkpoint(self, checkpoint: Checkpoint, tuned_from: str) -> Destination:
        tunable = self._settings.models.get(tuned_from)
        if not checkpoint.served_as or tunable is None:
            raise _not_served_yet(checkpoint.model)
        return self._with_base(checkpoint.model, tunable.stored, checkpoint.served_as)

    def _base(self, name: str) -> Destination:
        stored = self._settings.models[name].stored
        return self._with_base(name, stored, stored)

    def _with_base(self, name: str, base: str, served_as: str) -> Destination:
        servers = servers_of(self._settings, base=base, served_as=served_as, merged=False)
        if not servers:
            raise _not_served(name, f"base: {base}")
        return Destination(servers, served_as)


def find_model(session: Session, project_id: str, name: str) -> Model | None:
    """None: there is none of that name, or it was deleted, or it is another project's."""
    model = session.get(Model, name)
    is_theirs = model is not None and model.project_id == project_id and model.deleted_at is None
    return model if is_theirs else None


def servers_of(settings: Settings, *, base: str, served_as: str, merged: bool) -> tuple[Upstream, ...]:
    """Those that have the merged model, or the base and with it its adapters."""
    if merged:
        return tuple(server for server in settings.every_server if server.model == served_as)
    # Settings may say the name that a run spec has.
    wanted = base_name(base)
    return tuple(
        server for server in settings.every_server if server.base and base_name(server.base) == wanted
    )


def can_be_a_name(name: str) -> bool:
    """Whether a database takes it: a NUL, or half of a pair of surrogates, is nothing to ask one for."""
    return 0 < len(name) <= _LONGEST and name.isprintable()


def unknown_model(name: str) -> ApiError:
    """The same for what there is not and for what others have."""
    shown = name[:_LONGEST] if name[:_LONGEST].isprintable() else ascii(name[:_LONGEST])[1:-1]
    return ApiError(
        404,
        f"The model `{shown}` does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )


def _not_served(name: str, wanted: str) -> ApiError:
    return ApiError(
        503,
        f"The model `{name}` is there, but no server is configured that has it: add one with `{wanted}` "
        "to `servers` in the api's settings.",
        kind="server_error",
        param="model",
        code="model_not_served",
    )


def _not_served_yet(name: str) -> ApiError:
    """A checkpoint becomes an adapter some time after it was written, if at all."""
    return ApiError(
        404,
        f"The model `{name}` is a checkpoint that no server has an adapter of, so it is not served yet.",
        param="model",
        code="model_not_found",
    )


def _checkpoint(session: Session, project_id: str, name: str) -> tuple[Checkpoint, str] | None:
    """One of the project's jobs', and the name of what that job tuned."""
    asked = select(Checkpoint, Job.model).join(Job, Job.number == Checkpoint.job_number)
    found = session.execute(asked.where(Checkpoint.model == name, Job.project_id == project_id)).first()
    return None if found is None else (found[0], found[1])


def _is_free(session: Session, project_id: str, name: str) -> bool:
    """A published model is everybody's, unless it was made for some project's `ft:` name."""
    made = select(Model.project_id).where(Model.served_as == name, Model.merged.is_(True))
    owners = set(session.scalars(made))
    return not owners or project_id in owners
