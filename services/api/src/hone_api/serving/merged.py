"""Servers of merged models, of which each has weights of its own, and so wants a GPU of its own."""

from collections.abc import Callable, Collection
from typing import Protocol

START_SECONDS = 3900
"""How long one may take to begin, as k8s/base/server has it."""
Known = Callable[[Collection[str]], set[str]]
"""Which of these names published models of this database have, or had."""


class MergedServers(Protocol):
    """Whoever makes them; where nobody does, the operator starts them."""

    def keep(self, models: Collection[str], known: Known) -> None:
        """Have one for each of these published models that nobody else serves, and none for others that
        `known` says are of this database.
        """

    def waits_for(self, model: str) -> str | None:
        """Why it does not serve yet, for people, or nothing; what stands before the colon is what is so.

        None: none that was made here is to serve it. Raises OSError where that cannot be known yet.
        """
