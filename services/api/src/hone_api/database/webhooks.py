"""The tables of webhooks: who is told of a job's end, and what is still to be told."""

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from hone_api.database.tables import Number, Table

_ID = String(64)


class Webhook(Table):
    """An address of a project's own, and what it wants to hear."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(_ID, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    url: Mapped[str]
    events: Mapped[list[str]]
    secret: Mapped[str]
    """`whsec_…`. Each delivery is signed with it, so a digest would not do."""
    created_at: Mapped[int]
    disabled_at: Mapped[int | None]
    """When the receiver said that it is gone for good."""


class Delivery(Table):
    """One event for one webhook: written with what it tells of, and attempted until it has arrived."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("deliveries_of_webhook", "webhook_id", "status", "not_before"),
        Index("deliveries_by_status", "status", "ended_at"),
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(_ID, unique=True)
    """The `webhook-id` of every attempt."""
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    body: Mapped[str]
    """What is sent, letter by letter."""
    status: Mapped[str] = mapped_column(_ID)
    """pending, delivered or given_up."""
    attempts: Mapped[int]
    """Counted before each is made."""
    not_before: Mapped[int]
    """When the next attempt may be made."""
    outcome: Mapped[str | None]
    """Of the last attempt whose end is known."""
    created_at: Mapped[int]
    ended_at: Mapped[int | None]
