"""For whoever runs this: whether it lives, whether it can work, and figures."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

from hone_api.services import Ours

router = APIRouter(include_in_schema=False)


@router.get("/health")
async def health() -> dict[str, str]:
    """Wants no thread, of which there may be none free."""
    return {"status": "ok"}


@router.get("/ready")
def ready(ours: Ours) -> dict[str, str]:
    """Answers when the database does."""
    with ours.database.reading() as session:
        session.execute(text("SELECT 1"))
    return {"status": "ready"}


@router.get("/metrics")
async def figures() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
