"""Databases for the tests of the api: each kind that it can use, and always an empty one.

`database_url` is for modules whose tests take long: with PostgreSQL they are left to `make test`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from api_postgres import NotHere, Server, running_postgres
from api_serving_app import ADAPTER, STORED, ServingApp, tuned_app
from api_upstream import StandIn, stand_in

_EACH = ("sqlite", "postgresql")
_POSTGRESQL_LATER = ("sqlite", pytest.param("postgresql", marks=pytest.mark.chain))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A newcomer's machine may lack it; in CI it must be there."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except NotHere as error:
            if os.environ.get("CI"):
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="module", params=_EACH)
def new_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], str]]:
    """Makes an empty one, and gives its URL."""
    with ExitStack() as stack:
        yield lambda: _new(request, tmp_path_factory, stack)


@pytest.fixture(scope="module", params=_POSTGRESQL_LATER)
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty one for each module."""
    with ExitStack() as stack:
        yield _new(request, tmp_path_factory, stack)


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandIn]:
    """A stand-in for the base's server, with the adapter of a tuned model."""
    with stand_in(STORED, ADAPTER) as here:
        yield here


@pytest.fixture(scope="module")
def app(
    upstream: StandIn, tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> Iterator[ServingApp]:
    """An api before it, with that model."""
    with tuned_app(upstream.url, tmp_path_factory.mktemp("api"), database_url) as here:
        yield here


def _new(request: pytest.FixtureRequest, folders: pytest.TempPathFactory, stack: ExitStack) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{folders.mktemp('database') / 'hone-api.db'}"
    server: Any = request.getfixturevalue("postgres")
    url: str = stack.enter_context(server.database())
    return url
