"""Webhooks themselves: made, shown and deleted by the operator, each for one project."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hone_api.database.tables import Project
from hone_api.database.webhooks import Delivery, Webhook
from hone_api.ids import new_id
from hone_api.settings import Webhooks
from hone_api.webhooks.addresses import Refused, check_literal
from hone_api.webhooks.outbox import EVENTS, PENDING
from hone_api.webhooks.signing import new_secret
from hone_contract.errors import BadConfiguration

_LONGEST_URL = 2048


@dataclass(frozen=True)
class Shown:
    """A webhook, as `list` has it."""

    webhook: Webhook
    project: str
    url: str
    """Without its query, where people put what is secret."""
    pending: int
    outcome: str | None
    """Of the last attempt at the newest delivery."""


def create_webhook(
    session: Session, project: str, url: str, events: Sequence[str], rules: Webhooks
) -> Webhook:
    """Without `events`, of all. Its `secret` is what the receiver verifies with.

    Raises BadConfiguration for a project or event that there is not, and for a URL to which nothing may go.
    """
    if strange := sorted(set(events) - set(EVENTS)):
        raise BadConfiguration(f"event {strange[0]!r}: there are {', '.join(EVENTS)}")
    owner = session.scalar(select(Project).where(Project.name == project))
    if owner is None:
        raise BadConfiguration(
            f"no project has the name {project!r}; `hone-api keys create --project` makes one"
        )
    made = Webhook(
        id=new_id("webhook_"),
        project_id=owner.id,
        url=_checked(url, rules),
        events=[each for each in EVENTS if each in events or not events],
        secret=new_secret(),
        created_at=int(time.time()),
        disabled_at=None,
    )
    session.add(made)
    return made


def delete_webhook(session: Session, webhook_id: str) -> None:
    """With all that is still to be told to it. Raises BadConfiguration when there is no such webhook."""
    found = session.get(Webhook, webhook_id, with_for_update=True)
    if found is None:
        raise BadConfiguration(f"no webhook has the id {webhook_id!r}; `hone-api webhooks list` shows them")
    session.delete(found)


def list_webhooks(session: Session) -> Iterator[Shown]:
    """The oldest first."""
    rows = session.execute(select(Webhook, Project).join(Project).order_by(Webhook.created_at, Webhook.id))
    for webhook, project in rows:
        mine = Delivery.webhook_id == webhook.id
        pending = select(func.count()).select_from(Delivery).where(mine, Delivery.status == PENDING)
        newest = select(Delivery.outcome).where(mine, Delivery.outcome.is_not(None))
        yield Shown(
            webhook,
            project.name,
            webhook.url.partition("?")[0],
            session.scalar(pending) or 0,
            session.scalar(newest.order_by(Delivery.number.desc()).limit(1)),
        )


def _checked(text: str, rules: Webhooks) -> str:
    """As it is stored. What may be secret in it is not repeated."""
    try:
        url = httpx.URL(text)
        url.netloc.decode("ascii")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise BadConfiguration(f"--url cannot be read: {error}") from None
    if url.scheme not in (("https", "http") if rules.allow_http else ("https",)):
        raise BadConfiguration(
            f"--url begins with {url.scheme or 'no scheme'!r}; https is wanted, "
            "and http where the setting `webhooks.allow_http` is true"
        )
    if not url.host or url.userinfo or url.fragment or len(str(url)) > _LONGEST_URL:
        raise BadConfiguration(
            f"--url names a host, has no password and no fragment, and at most {_LONGEST_URL} letters"
        )
    try:
        check_literal(url.host, rules)
    except Refused as error:
        raise BadConfiguration(f"--url: {error}") from None
    return str(url)
