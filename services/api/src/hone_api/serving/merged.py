"""Servers of merged models, of which each has weights of its own, and so wants a GPU of its own."""

from collections.abc import Collection
from typing import Protocol


class MergedServers(Protocol):
    """Whoever makes them; where nobody does, the operator starts them."""

    def keep(self, models: Collection[str]) -> None:
        """Have one for each of these published models that nobody else serves, and no others of ours."""

    def waits_for(self, model: str) -> str | None:
        """Why ours does not serve yet, for people, or nothing; what stands before the colon is what is so.

        None: we have none that is to serve it.
        """
