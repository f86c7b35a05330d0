"""What is written in the outbox is brought to its receiver, by threads of its own.

An attempt is counted, and the next one given its time, before it is made; its outcome is written down
after it. Whoever is killed in between makes the next attempt at that time, with the same `webhook-id`.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from hone_api import metrics
from hone_api.database.session import Database
from hone_api.database.webhooks import Delivery, Webhook
from hone_api.webhooks.outbox import DELIVERED, GIVEN_UP, PENDING
from hone_api.webhooks.sending import Outcome, Send
from hone_api.webhooks.signing import signed
from hone_contract.events import Reporter

MOST_ATTEMPTS = 14
"""With the waits below, 68 hours from the first to the last, as OpenAI's are three days."""
_FIRST_SECONDS = 30
_JITTER = 0.2
_KEPT_SECONDS = 7 * 24 * 3600
"""How long a delivery can be looked up after its end."""


def wait_seconds(attempts: int, chance: random.Random) -> float:
    """After so many attempts; always longer than one may take (`webhooks.timeout_seconds`)."""
    return _FIRST_SECONDS * 2.0 ** (attempts - 1) * chance.uniform(1 - _JITTER, 1 + _JITTER)


@dataclass(frozen=True)
class Attempt:
    """One that has been counted and is to be made."""

    number: int
    delivery_id: str
    webhook_id: str
    url: str
    secret: str = field(repr=False)
    body: str
    count: int


@dataclass(frozen=True)
class Deliverer:
    """Makes attempts, one after another or in several threads at once."""

    database: Database
    reporter: Reporter
    send: Send
    clock: Callable[[], float] = time.time
    chance: random.Random = field(default_factory=random.Random)

    def deliver(self, number: int) -> None:
        """One attempt at a delivery, if it is its time."""
        if (attempt := self.begin(number)) is not None:
            headers = signed(attempt.secret, attempt.delivery_id, int(self.clock()), attempt.body)
            self.end(attempt, self.send(attempt.url, headers, attempt.body))

    def begin(self, number: int) -> Attempt | None:
        """Count an attempt. None: it is not its time, or nothing is left to tell."""
        now = self.clock()
        with self.database.writing() as session:
            row = session.get(Delivery, number, with_for_update=True)
            if row is None or row.status != PENDING or row.not_before > now:
                return None
            if row.attempts >= MOST_ATTEMPTS:
                # Somebody was killed during the last one.
                self._give_up(session, Delivery.number == number)
                return None
            row.attempts += 1
            row.not_before = int(now + wait_seconds(row.attempts, self.chance))
            webhook = session.get_one(Webhook, row.webhook_id)
            return Attempt(number, row.id, webhook.id, webhook.url, webhook.secret, row.body, row.attempts)

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Write down how an attempt ended; nothing of what was deleted meanwhile."""
        with self.database.writing() as session:
            result = self._result(session, attempt, outcome)
        if result is not None:
            metrics.WEBHOOK_ATTEMPTS.labels(result).inc()
            self._tell(attempt, outcome, result)

    def clean(self) -> None:
        """Forget what ended long ago."""
        before = int(self.clock()) - _KEPT_SECONDS
        with self.database.writing() as session:
            session.execute(
                delete(Delivery).where(Delivery.status.in_((DELIVERED, GIVEN_UP)), Delivery.ended_at < before)
            )

    def _result(self, session: Session, attempt: Attempt, outcome: Outcome) -> str | None:
        # The webhook first, as whoever deletes one does it: no two wait for each other.
        webhook = session.get(Webhook, attempt.webhook_id, with_for_update=outcome.is_gone)
        row = session.get(Delivery, attempt.number, with_for_update=True)
        if webhook is None or row is None or row.status != PENDING:
            return None
        row.outcome = outcome.told
        if outcome.is_delivered:
            row.status, row.ended_at = DELIVERED, int(self.clock())
            return "delivered"
        if outcome.is_gone:
            webhook.disabled_at = int(self.clock())
            session.flush()
            self._give_up(session, Delivery.webhook_id == webhook.id)
            return "gone"
        if attempt.count >= MOST_ATTEMPTS:
            self._give_up(session, Delivery.number == attempt.number)
            return "given_up"
        return "failed"

    def _give_up(self, session: Session, which: Any) -> None:
        session.execute(
            update(Delivery)
            .where(which, Delivery.status == PENDING)
            .values(status=GIVEN_UP, ended_at=int(self.clock()))
        )

    def _tell(self, attempt: Attempt, outcome: Outcome, result: str) -> None:
        more = {
            "failed": "; it is tried again",
            "given_up": "; that was the last attempt",
            "gone": "; the webhook is disabled, and gets nothing more",
        }.get(result, "")
        self.reporter.tell(
            f"webhook_{result}",
            f"{attempt.delivery_id} to {httpx.URL(attempt.url).host}: {outcome.told}{more}",
            level="info" if result == "delivered" else "warning",
            webhook=attempt.webhook_id,
            delivery=attempt.delivery_id,
            attempt=attempt.count,
        )
