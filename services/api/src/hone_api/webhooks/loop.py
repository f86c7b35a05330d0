"""The loop that finds what is to be delivered now, and gives each webhook its share of the threads."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from hone_api import metrics
from hone_api.beside import beside
from hone_api.database.webhooks import Delivery
from hone_api.services import Services
from hone_api.webhooks.addresses import resolve
from hone_api.webhooks.delivering import Deliverer
from hone_api.webhooks.outbox import PENDING
from hone_api.webhooks.sending import Post

_EVERY = 1.0
_CLEAN_EVERY = 3600
_THREADS = 16
_OF_ONE = 2
"""Attempts at one webhook at once: one that does not answer leaves the others' threads alone."""


@dataclass
class Loop:
    """One for each database."""

    deliverer: Deliverer
    wake: threading.Event = field(default_factory=threading.Event)
    _under_way: dict[int, tuple[str, threading.Thread]] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)
    """When each webhook had its last attempt."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        """Begin what is due, as far as there are threads."""
        now = int(self.deliverer.clock())
        waiting = (
            select(
                Delivery.webhook_id,
                func.count(),
                func.min(Delivery.created_at),
                func.min(Delivery.not_before).label("due"),
            )
            .where(Delivery.status == PENDING)
            .group_by(Delivery.webhook_id)
            .order_by("due")
        )
        with self.deliverer.database.reading() as session:
            rows = session.execute(waiting).all()
            metrics.WEBHOOKS_PENDING.set(sum(row[1] for row in rows))
            metrics.WEBHOOK_OLDEST_SECONDS.set(max((now - row[2] for row in rows), default=0))
            due = [
                (turn, webhook_id, number)
                for webhook_id, _, _, at in rows
                if at <= now
                for turn, number in self._of(session, webhook_id, now)
            ]
        self._begun = {row[0]: self._begun.get(row[0], 0.0) for row in rows}
        # Nobody has a second attempt before everybody has a first one; then whoever had none for longest.
        for _, webhook_id, number in sorted(due, key=lambda each: (each[0], self._begun[each[1]])):
            self._begin(webhook_id, number)

    def join(self, seconds: float) -> None:
        """Wait for what is under way, not longer than this."""
        until = time.monotonic() + seconds
        with self._lock:
            threads = [thread for _, thread in self._under_way.values()]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def run(self, stop: threading.Event) -> None:
        cleaned = float("-inf")
        while not stop.is_set():
            self._guarded(self.look)
            if time.monotonic() - cleaned > _CLEAN_EVERY:
                self._guarded(self.deliverer.clean)
                cleaned = time.monotonic()
            self.wake.wait(_EVERY)
            self.wake.clear()

    def _of(self, session: Session, webhook_id: str, now: int) -> Iterator[tuple[int, int]]:
        """Its oldest that may begin, each with the count of those that are at work before it."""
        with self._lock:
            here = [number for number, (of, _) in self._under_way.items() if of == webhook_id]
        wanted = select(Delivery.number).where(
            Delivery.webhook_id == webhook_id,
            Delivery.status == PENDING,
            Delivery.not_before <= now,
            Delivery.number.not_in(here),
        )
        chosen = wanted.order_by(Delivery.not_before, Delivery.number).limit(_OF_ONE - len(here))
        return enumerate(session.scalars(chosen).all(), len(here))

    def _begin(self, webhook_id: str, number: int) -> None:
        thread = threading.Thread(target=self._work, args=(number,), name="webhook", daemon=True)
        with self._lock:
            if len(self._under_way) >= _THREADS:
                return
            self._under_way[number] = webhook_id, thread
            self._begun[webhook_id] = time.monotonic()
        thread.start()

    def _work(self, number: int) -> None:
        is_done = False
        try:
            is_done = self._guarded(lambda: self.deliverer.deliver(number))
        finally:
            with self._lock:
                del self._under_way[number]
            if is_done:
                # There may be more of this webhook.
                self.wake.set()

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Whether it was done; what the database refuses for a while is done at a later look."""
        try:
            work()
        except SQLAlchemyError as error:
            self.deliverer.reporter.tell("webhooks_failed", f"{type(error).__name__}: {error}", level="error")
            return False
        return True


@contextmanager
def delivering(services: Services, tls: ssl.SSLContext, failed: Callable[[], None]) -> Iterator[None]:
    """In threads beside the routes; `failed` is called if the loop ends by a mistake of ours."""
    rules = services.settings.webhooks
    post = Post(rules, resolve, tls)
    loop = Loop(Deliverer(services.database, services.reporter, post))
    try:
        with beside("webhooks", loop.run, loop.wake, failed, rules.timeout_seconds):
            yield
    finally:
        loop.join(rules.timeout_seconds)
