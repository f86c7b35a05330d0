"""Keys of clients: each belongs to a project and opens what its scopes name."""

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hone_api.database.tables import Key, Project
from hone_api.ids import new_id
from hone_contract.errors import BadConfiguration

Scope = Literal["files", "tune", "chat", "admin"]
Limit = Literal["requests_per_minute", "tokens_per_minute"]
LIMITS: tuple[Limit, ...] = get_args(Limit)
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "hone-"
_HINT = 9
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    key_id: str
    project_id: str
    project: str
    """Its name, which is in the names of its models."""
    scopes: frozenset[str]
    requests_per_minute: int | None = None
    """None: as the settings say; 0: as many as come."""
    tokens_per_minute: int | None = None
    """Likewise."""

    def may(self, scope: Scope) -> bool:
        """Whoever is `admin` may do all."""
        return scope in self.scopes or "admin" in self.scopes


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def create_key(
    session: Session,
    project: str,
    scopes: Sequence[Scope],
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> str:
    """A new key for a project, which is made if it is not there. Only the answer holds the key itself.

    Its limits: None is what the settings say, 0 is none.

    Raises BadConfiguration for a scope that there is not, and for a name that is none.
    """
    if not 0 < len(project.strip()) <= _LONGEST_NAME or not project.isprintable():
        raise BadConfiguration(
            f"project {project!a}: a name has 1 to {_LONGEST_NAME} letters that can be read"
        )
    if strange := sorted(set(scopes) - set(SCOPES)):
        raise BadConfiguration(f"scope {strange[0]!r}: there are {', '.join(SCOPES)}")
    now, owner = int(time.time()), _project(session, project)
    secret = _PREFIX + secrets.token_urlsafe(32)
    session.add(
        Key(
            id=new_id("key_"),
            project_id=owner.id,
            digest=digest(secret),
            hint=secret[:_HINT],
            scopes=sorted(set(scopes)),
            created_at=now,
            revoked_at=None,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
    )
    return secret


def _project(session: Session, name: str) -> Project:
    """The one with this name, made by us or, at the same moment, by another command."""
    wanted = select(Project).where(Project.name == name)
    if (found := session.scalar(wanted)) is not None:
        return found
    try:
        with session.begin_nested():
            made = Project(id=new_id("proj_"), name=name, created_at=int(time.time()))
            session.add(made)
        return made
    except IntegrityError:
        return session.scalars(wanted).one()


def revoke_key(session: Session, key_id: str) -> None:
    """Raises BadConfiguration when there is no such key."""
    key = _key(session, key_id)
    key.revoked_at = key.revoked_at or int(time.time())


def limit_key(session: Session, key_id: str, limits: Mapping[Limit, int | None]) -> None:
    """Gives those limits that are named; None is what the settings say, 0 is none.

    Raises BadConfiguration when there is no such key.
    """
    key = _key(session, key_id)
    for name, value in limits.items():
        setattr(key, name, value)


def _key(session: Session, key_id: str) -> Key:
    key = session.get(Key, key_id)
    if key is None:
        raise BadConfiguration(f"no key has the id {key_id!r}; `hone-api keys list` shows them")
    return key


def find_caller(session: Session, secret: str) -> Caller | None:
    """Whose key it is. None: nobody's, or it was revoked."""
    found = session.execute(
        select(Key, Project)
        .join(Project, Project.id == Key.project_id)
        .where(Key.digest == digest(secret), Key.revoked_at.is_(None))
    ).one_or_none()
    if found is None:
        return None
    key, project = found
    limits = (key.requests_per_minute, key.tokens_per_minute)
    return Caller(key.id, project.id, project.name, frozenset(key.scopes), *limits)
