"""What is to be told, written down in the transaction in which it happens: nothing is lost or told twice."""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from hone_api.database.tables import Job
from hone_api.database.webhooks import Delivery, Webhook
from hone_api.ids import new_id

EVENTS = ("fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled")
"""Of OpenAI's, those that there are here (openai/types/webhooks)."""
PENDING, DELIVERED, GIVEN_UP = "pending", "delivered", "given_up"


def announce(session: Session, job: Job) -> None:
    """Leave word of a job that has just ended for every webhook of its project that wants to hear of it."""
    kind, now = f"fine_tuning.job.{job.status}", job.finished_at or 0
    told = {
        "object": "event",
        "id": new_id("evt_"),
        "type": kind,
        "created_at": now,
        "data": {"id": job.id},
    }
    # Shared, so that none of them is deleted or disabled before this is committed.
    wanted = (
        select(Webhook)
        .where(Webhook.project_id == job.project_id, Webhook.disabled_at.is_(None))
        .with_for_update(read=True)
    )
    session.add_all(
        Delivery(
            id=new_id("wh_"),
            webhook_id=webhook.id,
            body=json.dumps(told),
            status=PENDING,
            attempts=0,
            not_before=now,
            outcome=None,
            created_at=now,
            ended_at=None,
        )
        for webhook in session.scalars(wanted)
        if kind in webhook.events
    )
