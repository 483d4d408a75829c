"""External indicators against a server of our own that answers as alternative.me and coingecko do."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from arq import Retry

from jobs.indicators import fetch_indicator_history, fetch_indicators
from kraken_history.errors import InvalidTime, MalformedMessage, ServiceUnavailable, UnknownIndicator
from kraken_history.indicators import (
    decode_btc_dominance,
    decode_fear_greed,
    fetch_btc_dominance,
    fetch_fear_greed,
    store_indicators,
)
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import ExternalIndicator
from kraken_history.settings import Settings

FEAR_GREED = b"""{"name": "Fear and Greed Index", "data": [
    {"value": "40", "value_classification": "Fear", "timestamp": "1551157200", "time_until_update": "68499"},
    {"value": "47", "value_classification": "Neutral", "timestamp": "1551070800"}
], "metadata": {"error": null}}"""
DOMINANCE = b"""{"data": {"active_cryptocurrencies": 13690, "updated_at": 1712512855,
    "market_cap_percentage": {"btc": 50.446604803167920, "eth": 14.9}}}"""
DAYS = [datetime(2019, 2, 25, 5, tzinfo=UTC), datetime(2019, 2, 26, 5, tzinfo=UTC)]
"""As the source stamps them: at midnight of these days, nobody knew the figures."""
START, END = datetime(2019, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)


class Answers:
    """What the server says next."""

    def __init__(self) -> None:
        self.fear_greed: web.Response | bytes = FEAR_GREED
        self.dominance: web.Response | bytes = DOMINANCE
        self.asked: list[str] = []

    async def answer_fear_greed(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        return self.fear_greed if isinstance(self.fear_greed, web.Response) else web.Response(body=self.fear_greed)

    async def answer_dominance(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        return self.dominance if isinstance(self.dominance, web.Response) else web.Response(body=self.dominance)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def url(answers: Answers) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/fng/", answers.answer_fear_greed)
    app.router.add_get("/api/v3/global", answers.answer_dominance)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_fear_and_greed_is_fetched_by_day(url: str, answers: Answers) -> None:
    found = await fetch_fear_greed(url, days=2)

    assert found == [
        ExternalIndicator(DAYS[1], "fear_greed", Decimal("40"), "alternative.me"),
        ExternalIndicator(DAYS[0], "fear_greed", Decimal("47"), "alternative.me"),
    ]
    assert answers.asked == ["/fng/?limit=2&format=json"]


async def test_dominance_is_fetched_to_the_last_digit(url: str) -> None:
    (found,) = await fetch_btc_dominance(url.rstrip("/"))

    assert (found.timestamp, found.indicator_name, found.source) == (
        datetime(2024, 4, 7, 18, 0, 55, tzinfo=UTC), "btc_dominance", "coingecko"
    )  # fmt: skip
    assert str(found.value) == "50.446604803167920"


@pytest.mark.parametrize("status", [429, 500, 403])
async def test_an_error_may_pass(url: str, answers: Answers, status: int) -> None:
    answers.fear_greed = web.Response(status=status)

    with pytest.raises(ServiceUnavailable, match=f"answers with {status}"):
        await fetch_fear_greed(url)


async def test_nobody_there_may_pass() -> None:
    with pytest.raises(ServiceUnavailable, match=r"no answer from http://127\.0\.0\.1:1/api/v3/global"):
        await fetch_btc_dominance("http://127.0.0.1:1")


async def test_an_answer_without_end_is_not_read(url: str, answers: Answers) -> None:
    answers.fear_greed = b" " * 10_000_001

    with pytest.raises(MalformedMessage, match="at most 10000000 bytes, got more"):
        await fetch_fear_greed(url)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"{}", b'{"data": null}', b'{"data": [{"value": "40"}]}',
        b'{"data": [{"value": "forty", "timestamp": "1551157200"}]}',
        b'{"data": [{"value": "40", "timestamp": "soon"}]}',
        b'{"data": [{"value": "40", "timestamp": "99999999999999"}]}',
        b'{"data": [{"value": "101", "timestamp": "1551157200"}]}',
        b'{"data": [{"value": "NaN", "timestamp": "1551157200"}]}',
    ],
)  # fmt: skip
def test_what_is_no_fear_and_greed_is_refused_with_the_answer(body: bytes) -> None:
    with pytest.raises(MalformedMessage, match=r"alternative\.me") as refusal:
        decode_fear_greed(body)

    assert refusal.value.payload == body


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'{"data": {"updated_at": 1}}',
        b'{"data": {"updated_at": 1, "market_cap_percentage": {"eth": 1}}}',
        b'{"data": {"updated_at": 99999999999999, "market_cap_percentage": {"btc": 1}}}',
        b'{"data": {"updated_at": 1, "market_cap_percentage": {"btc": -1}}}',
    ],
)  # fmt: skip
def test_what_is_no_dominance_is_refused_with_the_answer(body: bytes) -> None:
    with pytest.raises(MalformedMessage, match="coingecko") as refusal:
        decode_btc_dominance(body)

    assert refusal.value.payload == body


async def test_storing_again_changes_nothing_and_a_correction_replaces(
    pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    days = decode_fear_greed(FEAR_GREED)
    corrected = ExternalIndicator(DAYS[1], "fear_greed", Decimal("41"), "alternative.me")

    counts = [await store_indicators(pool, each) for each in (days, days, [*days, corrected], [])]

    assert counts == [2, 0, 1, 0]
    assert await provider.get_external_indicators("fear_greed", START, END) == [days[1], corrected]


async def test_reading_is_by_name_and_half_open(pool: asyncpg.Pool, provider: HistoricalDataProvider) -> None:
    days = decode_fear_greed(FEAR_GREED)
    await store_indicators(pool, [*days, *decode_btc_dominance(DOMINANCE)])

    assert await provider.get_external_indicators("fear_greed", DAYS[0], DAYS[1]) == [days[1]]
    assert await provider.get_external_indicators("btc_dominance", START, END) == decode_btc_dominance(DOMINANCE)
    assert await provider.get_external_indicators("fear_greed", END, END + timedelta(days=1)) == []
    with pytest.raises(InvalidTime):
        await provider.get_external_indicators("fear_greed", datetime(2019, 1, 1), END)  # noqa: DTZ001 — that is the point


async def run_job(pool: asyncpg.Pool, **settings: object) -> int:
    return await fetch_indicators({"context": SimpleNamespace(pool=pool, settings=Settings.model_validate(settings))})


async def test_an_unknown_indicator_is_an_error_like_an_unknown_symbol(
    pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    """A strategy with a misspelt name once read an empty list, as if there were no figures in that time."""
    with pytest.raises(UnknownIndicator, match="it holds none; `kraken-history indicators fetch`"):
        await provider.get_external_indicators("fear_greed", START, END)
    await store_indicators(pool, decode_fear_greed(FEAR_GREED))

    with pytest.raises(UnknownIndicator, match="no indicator 'moon_phase': expected one of fear_greed") as refusal:
        await provider.get_external_indicators("moon_phase", START, END)

    assert (refusal.value.name, refusal.value.known) == ("moon_phase", ("fear_greed",))


async def test_no_figure_is_known_before_its_source_gave_it(
    pool: asyncpg.Pool, provider: HistoricalDataProvider
) -> None:
    """The figure of 18:00 was once stored under the midnight before, and a backtest knew it all day."""
    await store_indicators(pool, decode_btc_dominance(DOMINANCE))
    day, given = datetime(2024, 4, 7, tzinfo=UTC), datetime(2024, 4, 7, 18, 0, 55, tzinfo=UTC)

    assert await provider.get_external_indicators("btc_dominance", day, given) == []
    assert len(await provider.get_external_indicators("btc_dominance", day, given + timedelta(seconds=1))) == 1


async def test_the_whole_history_is_fetched_at_the_start(pool: asyncpg.Pool, url: str, answers: Answers) -> None:
    first = datetime(2018, 2, 1, tzinfo=UTC)
    days = [{"value": "30", "timestamp": str(int((first + timedelta(days=n)).timestamp()))} for n in range(3200)]
    answers.fear_greed = json.dumps({"data": days}).encode()
    settings = Settings.model_validate({"fear_greed_url": url, "fear_greed_enabled": True})

    assert await fetch_indicator_history({"context": SimpleNamespace(pool=pool, settings=settings)}) == 3200
    assert await fetch_indicators({"context": SimpleNamespace(pool=pool, settings=settings)}) == 0
    assert answers.asked == ["/fng/?limit=0&format=json", "/fng/?limit=30&format=json"]
    assert await pool.fetchval("SELECT min(timestamp) FROM external_indicators") == first


async def test_a_source_that_is_away_at_the_start_does_no_harm(pool: asyncpg.Pool, url: str, answers: Answers) -> None:
    answers.fear_greed = web.Response(status=503)
    settings = Settings.model_validate({"fear_greed_url": url, "fear_greed_enabled": True})

    assert await fetch_indicator_history({"context": SimpleNamespace(pool=pool, settings=settings)}) == 0


async def test_the_job_fetches_nothing_unless_enabled(pool: asyncpg.Pool, url: str, answers: Answers) -> None:
    assert await run_job(pool, fear_greed_url=url, btc_dominance_url=url) == 0
    assert answers.asked == []


async def test_the_job_stores_what_is_enabled(pool: asyncpg.Pool, provider: HistoricalDataProvider, url: str) -> None:
    assert await run_job(pool, fear_greed_url=url, fear_greed_enabled=True) == 2
    assert await run_job(pool, btc_dominance_url=url, btc_dominance_enabled=True) == 1
    assert len(await provider.get_external_indicators("fear_greed", START, END)) == 2


async def test_one_that_is_away_is_tried_again_and_does_not_cost_the_other(
    pool: asyncpg.Pool, provider: HistoricalDataProvider, url: str, answers: Answers
) -> None:
    answers.fear_greed = web.Response(status=503)

    with pytest.raises(Retry):
        await run_job(
            pool, fear_greed_url=url, btc_dominance_url=url, fear_greed_enabled=True, btc_dominance_enabled=True
        )

    assert len(await provider.get_external_indicators("btc_dominance", START, END)) == 1


async def test_nonsense_is_not_tried_again(pool: asyncpg.Pool, url: str, answers: Answers) -> None:
    answers.fear_greed = b"<html>"

    assert await run_job(pool, fear_greed_url=url, fear_greed_enabled=True) == 0
