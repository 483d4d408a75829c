"""Servers that stand between us and a database, or that others share."""

from collections.abc import Iterator

import pytest

from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
from tests.support.neighbours import pgbouncer


@pytest.fixture(params=["transaction", "session"])
def pooled_url(request: pytest.FixtureRequest, database_url: str) -> Iterator[str]:
    """A new, empty database through PgBouncer."""
    with pgbouncer(database_url, pool_mode=request.param) as url:
        yield url
