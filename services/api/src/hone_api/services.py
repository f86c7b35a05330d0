"""What every route works with."""

import threading
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from hone_api.database.session import Database
from hone_api.files.storage import Storage
from hone_api.serving.upstreams import Upstreams
from hone_api.settings import Settings
from hone_contract.events import Reporter


@dataclass(frozen=True)
class Services:
    """One of each, for the life of the process."""

    settings: Settings
    database: Database
    storage: Storage
    upstreams: Upstreams
    reporter: Reporter
    wake: threading.Event = field(default_factory=threading.Event)
    """Set when there is something new for the reconcile loop to do."""


def services_of(request: Request) -> Services:
    return cast(Services, request.app.state.services)


Ours = Annotated[Services, Depends(services_of)]
