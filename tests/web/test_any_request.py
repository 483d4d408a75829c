"""Requests that schemathesis makes from the OpenAPI document: each answer is one that the document describes."""

import asyncio
import time
from collections.abc import Iterator
from threading import Thread
from typing import Any

import asyncpg
import pytest
import schemathesis
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from kraken_history.storing.store import Store
from kraken_history.web.application import create_app
from tests.support.servers import Background
from tests.web.conftest import HOUR

Case = schemathesis.Case[Any]
Operation = schemathesis.APIOperation[Any, Any, Any, Any]

EXAMPLES = 60
"""Requests per path."""

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


_TIMES = st.sampled_from(["2026-01-05T09:00Z", "2026-01-05T10:00Z", "2026-01-05T10:30Z", "2026-01-05T11:00Z"])
_SENSIBLE = st.fixed_dictionaries(
    {}, optional={"symbol": st.just("BTC/USDT"), "start": _TIMES, "end": _TIMES, "interval": st.just("5m")}
)
"""Values that exist, in place of those that are made up."""


@pytest.fixture
def base_url(migrated_database_url: str, background: Background) -> Iterator[str]:
    """The server in a thread, because schemathesis is not asynchronous."""

    async def fill() -> None:
        async with asyncpg.create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
            await Store(pool).write(HOUR)

    background.run(fill())
    config = uvicorn.Config(create_app(migrated_database_url), host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    give_up = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def statuses_of(operation: Operation) -> set[int]:
    """Ask for a path in many ways; the statuses of the answers."""
    names = {parameter.name for parameter in operation.query}
    answered: set[int] = set()

    @settings(max_examples=EXAMPLES)
    @given(case=operation.as_strategy(), sensible=_SENSIBLE)
    def ask(case: Case, sensible: dict[str, str]) -> None:
        case.query = {**case.query, **{name: value for name, value in sensible.items() if name in names}}
        answered.add(case.call_and_validate(checks=CHECKS, timeout=20).status_code)

    ask()
    return answered


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
def test_every_answer_is_one_that_the_document_describes(base_url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{base_url}/api/v1/openapi.json")
    endless = "/api/v1/events/candles"  # a stream of events, see test_api
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    answered = {each.path: statuses_of(each) for each in operations if each.path != endless}

    assert len(answered) == 9
    assert {path for path, statuses in answered.items() if not statuses & {200, 204}} == {"/api/v1/runs/{id}"}
