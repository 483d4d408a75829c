"""The commands that fetch and list external indicators."""

import json
from collections.abc import Iterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.indicators.test_indicators import DOMINANCE, FEAR_GREED
from tests.support.command import Run
from tests.support.servers import Background


@pytest.fixture
def environment(migrated_database_url: str, background: Background) -> Iterator[dict[str, str]]:
    async def fear_greed(_: web.Request) -> web.Response:
        return web.Response(body=FEAR_GREED)

    async def dominance(_: web.Request) -> web.Response:
        return web.Response(body=DOMINANCE)

    app = web.Application()
    app.router.add_get("/fng/", fear_greed)
    app.router.add_get("/api/v3/global", dominance)
    server = TestServer(app)
    background.run(server.start_server())
    url = str(server.make_url("/"))
    yield {"DATABASE_URL": migrated_database_url, "FEAR_GREED_URL": url, "BTC_DOMINANCE_URL": url}
    background.run(server.close())


def test_indicators_are_fetched_and_listed(command: Run, environment: dict[str, str]) -> None:
    assert "no indicator is stored" in command("indicators", "list", **environment).err

    fetched, again = command("indicators", "fetch"), command("indicators", "fetch", "fear_greed")
    listed = command("indicators", "list", "--json")

    assert (fetched.code, fetched.out) == (0, "")
    assert fetched.err == (
        "fear_greed: fetched 2 figure(s), of which 2 are new or changed\n"
        "btc_dominance: fetched 1 figure(s), of which 1 are new or changed\n"
    )
    assert again.err == "fear_greed: fetched 2 figure(s), of which 0 are new or changed\n"
    assert [(each["name"], each["figures"], each["oldest"]) for each in json.loads(listed.out)] == [
        ("btc_dominance", 1, "2024-04-07T18:00:55Z"),
        ("fear_greed", 2, "2019-02-25T05:00:00Z"),
    ]
    assert "2019-02-26 05:00:00Z" in command("indicators", "list").out


def test_a_source_that_is_away_is_one_line_and_does_not_cost_the_other(
    command: Run, environment: dict[str, str]
) -> None:
    outcome = command("indicators", "fetch", **environment | {"BTC_DOMINANCE_URL": "http://127.0.0.1:1"})

    assert outcome.code == 1
    assert "fear_greed: fetched 2 figure(s)" in outcome.err
    assert "btc_dominance: no answer from http://127.0.0.1:1/api/v3/global" in outcome.err


def test_an_unknown_name_is_refused(command: Run, environment: dict[str, str]) -> None:
    outcome = command("indicators", "fetch", "moon_phase", **environment)

    assert outcome.code == 2
    assert "expected one of fear_greed, btc_dominance, got 'moon_phase'" in outcome.err
