"""The HTTP API: its answers are those of the library."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pyarrow as pa
import pytest
from pydantic import SecretStr

from kraken_history.backtests import BacktestRun
from kraken_history.cli.instants import instant
from kraken_history.errors import UsageError
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE, HistoricalCandle, HistoricalTrade, floor_minute
from kraken_history.storing.store import Store
from kraken_history.web import models
from kraken_history.web.access import check_token
from tests.support.waiting import until
from tests.web.conftest import HOUR, START, served

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

RANGE = {"symbol": "BTC/USDT", "start": "2026-01-05T10:00Z", "end": "2026-01-05T11:00Z"}


async def get(client: aiohttp.ClientSession, path: str, **query: Any) -> Any:
    async with client.get(f"/api/v1/{path}", params=query) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def refused(client: aiohttp.ClientSession, path: str, **query: Any) -> tuple[int, dict[str, Any]]:
    async with client.get(f"/api/v1/{path}", params=query) as answer:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.status, await answer.json()


async def test_candles_are_those_of_the_library_digit_for_digit(
    client: aiohttp.ClientSession, history_url: str
) -> None:
    told = await get(client, "candles", interval="15m", **RANGE)
    async with HistoricalDataProvider(history_url) as provider:
        candles = await provider.get_candles("BTC/USDT", 15, START, START + timedelta(hours=1))

    assert (told["symbol"], told["interval_minutes"], told["next"]) == ("BTC/USDT", 15, None)
    assert [tuple(candle) for candle in told["candles"]] == [HistoricalCandle.__struct_fields__] * 4
    assert [(c["timestamp"], c["close"], c["volume"], c["trade_count"]) for c in told["candles"]] == [
        (f"{c.timestamp:%Y-%m-%dT%H:%M:%SZ}", f"{c.close:f}", f"{c.volume:f}", c.trade_count) for c in candles
    ]
    assert told["candles"][0]["volume"] == "0.000135"
    models.Candles.model_validate(told)


async def test_pages_of_candles_join_without_a_seam(client: aiohttp.ClientSession) -> None:
    whole = (await get(client, "candles", **RANGE))["candles"]
    parts: list[Any] = []
    start: str | None = RANGE["start"]
    while start:
        page = await get(client, "candles", **{**RANGE, "start": start, "limit": 25})
        assert len(page["candles"]) <= 25
        parts += page["candles"]
        start = page["next"]

    assert len(whole) == 60
    assert parts == whole


async def test_without_a_start_the_newest_candles_come(client: aiohttp.ClientSession) -> None:
    newest = await get(client, "candles", symbol="XBTUSDT", limit=2)

    assert [c["timestamp"] for c in newest["candles"]] == ["2026-01-05T10:59:00Z", "2026-01-05T11:00:00Z"]


async def test_rows_in_the_order_of_ccxt(client: aiohttp.ClientSession) -> None:
    rows = await get(client, "candles", format="ccxt", interval=60, **RANGE)

    assert rows == [[1767607200000, 90000.0, 90006.0, 90000.0, 90002.0, 0.00054]]


async def test_csv_has_the_whole_range(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/candles", params={**RANGE, "limit": 3}, headers={"Accept": "text/csv"}) as answer:
        rows = list(csv.DictReader(io.StringIO(await answer.text())))

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert len(rows) == 60
    assert rows[0] == {
        "symbol": "BTC/USDT", "timestamp": "2026-01-05T10:00:00Z", "interval_minutes": "1", "open": "90000",
        "high": "90005", "low": "90000", "close": "90005", "volume": "0.000009", "quote_volume": "0.8100225",
        "trade_count": "6", "vwap": "90002.5", "source": "trades",
    }  # fmt: skip


async def test_an_arrow_stream_is_the_table_of_the_library(client: aiohttp.ClientSession, history_url: str) -> None:
    async with client.get("/api/v1/candles", params={**RANGE, "format": "arrow"}) as answer:
        table = pa.ipc.open_stream(await answer.read()).read_all()
    async with HistoricalDataProvider(history_url) as provider:
        expected = await provider.get_candles_arrow("BTC/USDT", 1, START, START + timedelta(hours=1))

    assert table == expected


async def test_trades_come_in_pages_that_split_no_instant(client: aiohttp.ClientSession, history_url: str) -> None:
    """Three trades share an instant, where a page of two would end between them."""
    same = HOUR[-1].timestamp + timedelta(minutes=1)
    late = [
        HistoricalTrade(n, "BTC/USDT", same, HOUR[0].price, HOUR[0].volume, "buy", "market") for n in (362, 363, 364)
    ]
    async with asyncpg.create_pool(history_url, min_size=1, max_size=1) as pool:
        await Store(pool).write(late)
    pages: list[list[int]] = []
    start: str | None = "2026-01-05T10:59:45Z"
    while start:
        page = await get(
            client, "trades", symbol="BTC/USDT", start=start, end="2026-01-05T12:00Z", limit=2, gaps="ignore"
        )
        models.Trades.model_validate(page)
        pages.append([trade["id"] for trade in page["trades"]])
        start = page["next"]

    assert [id_ for page in pages for id_ in page] == [360, 361, 362, 363, 364]
    assert max(map(len, pages)) == 3
    assert list((await get(client, "trades", **RANGE, limit=1))["trades"][0]) == list(HistoricalTrade.__struct_fields__)


async def test_missing_time_is_refused_and_told(client: aiohttp.ClientSession) -> None:
    status, problem = await refused(client, "candles", **{**RANGE, "start": "2026-01-05T09:00Z"})

    assert (status, problem["title"]) == (409, "Part of the history is missing")
    assert problem["gaps"] == [{"start": "2026-01-05T09:00:00Z", "end": "2026-01-05T10:00:00Z"}]
    assert "kraken-history backfill BTC/USDT --from 2026-01-05T09:00:00Z" in problem["detail"]
    assert "gaps=ignore" in problem["detail"]
    ignored = await get(client, "candles", **{**RANGE, "start": "2026-01-05T09:00Z", "gaps": "ignore"})
    assert len(ignored["candles"]) == 60
    padded = await get(client, "candles", **{**RANGE, "end": "2026-01-05T11:10Z", "gaps": "pad"})
    assert [c["is_made_up"] for c in padded["candles"]] == [False] * 61 + [True] * 9
    models.Candles.model_validate(padded)


async def test_csv_of_a_range_with_a_gap_is_refused_before_it_begins(client: aiohttp.ClientSession) -> None:
    status, problem = await refused(client, "candles", **{**RANGE, "start": "2026-01-05T09:00Z", "format": "csv"})

    assert (status, problem["title"]) == (409, "Part of the history is missing")


@pytest.mark.parametrize(
    ("path", "query", "status", "detail"),
    [
        ("candles", {"symbol": "SOL/USDT"}, 404, "the database holds nothing of 'SOL/USDT': expected one of BTC/USDT"),
        ("candles", {}, 400, "symbol: Field required"),
        ("candles", {**RANGE, "interval": "1M"}, 400, "interval: expected a whole number of minutes from 1 to 525600"),
        ("candles", {**RANGE, "start": "soon"}, 400, "start: expected a time such as 2026-01-31"),
        ("candles", {**RANGE, "end": "2026-01-01"}, 400, "must be before end"),
        ("candles", {**RANGE, "limit": 10_001}, 400, "limit: Input should be less than or equal to 10000"),
        ("candles", {**RANGE, "gaps": "hide"}, 400, "gaps: Input should be 'ignore', 'raise', 'pad' or 'fill'"),
        ("candles", {"symbol": "BTC/USDT", "format": "csv"}, 400, "expected start and end"),
        ("trades", {"symbol": "BTC/USDT"}, 400, "expected both start and end"),
        ("trades", {**RANGE, "format": "ccxt"}, 400, "expected json, csv or arrow"),
        ("coverage", {**RANGE, "start": "2020-01-01"}, 400, "at most 366 days"),
        ("runs/00000000-0000-0000-0000-000000000000", {}, 404, "expected the id of a saved backtest run"),
        ("runs/1", {}, 400, "id: Input should be a valid UUID"),
        ("nothing", {}, 404, "Not Found"),
    ],
)
async def test_bad_requests_get_one_clear_line(
    client: aiohttp.ClientSession, path: str, query: dict[str, Any], status: int, detail: str
) -> None:
    code, problem = await refused(client, path, **query)

    assert (code, problem["status"]) == (status, status)
    assert detail in problem["detail"]
    assert "\n" not in problem["detail"]


async def test_as_of_gives_what_was_known(client: aiohttp.ClientSession) -> None:
    before = await get(client, "candles", **RANGE, as_of="2026-01-05T12:00Z")
    now = await get(client, "candles", **RANGE, as_of="now", limit=7)
    status, problem = await refused(client, "candles", **RANGE, as_of="now", gaps="raise")

    assert before["candles"] == []  # stored today
    assert (len(now["candles"]), now["next"]) == (7, "2026-01-05T10:07:00Z")
    assert (status, "expected gaps='ignore'" in problem["detail"]) == (400, True)


async def test_coverage_adds_up_and_comes_in_pages(client: aiohttp.ClientSession) -> None:
    asked = {"symbol": "BTC/USDT", "start": "2026-01-05T09:30Z", "end": "2026-01-05T11:30Z"}
    whole = await get(client, "coverage", **asked)
    first = await get(client, "coverage", **asked, limit=1)
    second = await get(client, "coverage", **{**asked, "start": first["next"]})

    models.Coverage.model_validate(whole)
    assert (whole["proven_s"], whole["missing_s"], whole["next"]) == (3600.0, 3600.0, None)
    assert [span["kind"] for span in whole["spans"]] == ["missing", "proven", "missing"]
    assert first["spans"] + second["spans"] == whole["spans"]
    assert first["missing_s"] + second["missing_s"] == whole["missing_s"]


async def test_coverage_by_buckets_is_that_of_the_library(client: aiohttp.ClientSession) -> None:
    asked = {"symbol": "BTC/USDT", "start": "2026-01-05T09:30Z", "end": "2026-01-05T11:30Z", "resolution": "1h"}
    told = await get(client, "coverage", **asked)
    status, problem = await refused(client, "coverage", **{**asked, "start": "2024-01-01", "resolution": "1m"})

    models.CoverageByBuckets.model_validate(told)
    assert [(b["start"], b["proven_s"], b["missing_s"]) for b in told["buckets"]] == [
        ("2026-01-05T09:30:00Z", 0.0, 1800.0),
        ("2026-01-05T10:00:00Z", 3600.0, 0.0),
        ("2026-01-05T11:00:00Z", 0.0, 1800.0),
    ]
    assert (status, "at most 10,000 buckets" in problem["detail"]) == (400, True)


async def test_status_and_symbols(client: aiohttp.ClientSession) -> None:
    status = await get(client, "status")
    one = await get(client, "status", symbol="XBTUSDT")

    assert await get(client, "symbols") == {"symbols": ["BTC/USDT"]}
    models.Statuses.model_validate(status)
    assert status == one
    assert (status["symbols"][0]["total_trades"], status["symbols"][0]["missing_trades"]) == (361, 0)


async def test_runs_are_listed_and_loaded(client: aiohttp.ClientSession, history_url: str) -> None:
    run = BacktestRun(
        strategy_name="crossing", symbols=("BTC/USDT",), start_time=START, end_time=START + timedelta(hours=1),
        parameters={"fast": 5}, metrics={"profit": 1.5}, gaps="raise",
    )  # fmt: skip
    async with HistoricalDataProvider(history_url) as provider:
        id_ = await provider.save_run(run)
    listed = await get(client, "runs", strategy="crossing")
    loaded = await get(client, f"runs/{id_}")

    models.Runs.model_validate(listed)
    models.Run.model_validate(loaded)
    assert [each["id"] for each in listed["runs"]] == [str(id_)]
    assert (loaded["parameters"], loaded["coverage"]["gaps"]) == ({"fast": 5}, "raise")
    assert await get(client, "runs", strategy="other") == {"runs": []}


async def test_what_is_proven_may_be_cached_and_is_not_sent_twice(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/candles", params=RANGE) as proven:
        tag = proven.headers["ETag"]
    async with client.get("/api/v1/candles", params={**RANGE, "gaps": "ignore"}) as unproven:
        pass
    async with client.get("/api/v1/candles", params=RANGE, headers={"If-None-Match": tag}) as again:
        body = await again.read()

    assert proven.headers["Cache-Control"] == "public, max-age=86400"
    assert unproven.headers["Cache-Control"] == "public, no-cache"
    assert (again.status, body) == (304, b"")


async def test_the_documentation_needs_no_network(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/docs") as page:
        text = await page.text()
    async with client.get("/api/v1/openapi.json") as answer:
        described = await answer.json()

    assert page.status == 200
    assert "https://" not in text
    assert "/api/docs/assets/swagger-ui-bundle.js" in text
    assert {"/api/v1/symbols", "/api/v1/candles", "/api/v1/trades", "/api/v1/coverage"} <= described["paths"].keys()


async def test_a_page_of_somebody_else_cannot_ask(base: str) -> None:
    """Its name was made to point here; the browser sends that name."""
    async with aiohttp.ClientSession(base) as session:
        async with session.get("/api/v1/symbols", headers={"Host": "evil.example:8765"}) as foreign:
            told = await foreign.json()
        async with session.get("/api/v1/symbols", headers={"Host": "localhost:8765"}) as ours:
            pass

    assert (foreign.status, told["detail"]) == (400, "expected the host localhost, got another name")
    assert ours.status == 200


async def test_off_loopback_every_read_needs_the_token(history_url: str) -> None:
    token = "0123456789abcdef"
    async with (
        served(history_url, host="0.0.0.0", token=SecretStr(token)) as base,
        aiohttp.ClientSession(base) as session,
    ):
        answers = {}
        for path in ("/api/v1/symbols", "/api/docs", "/api/v1/openapi.json", "/healthz", "/readyz"):
            async with session.get(path) as answer:
                answers[path] = answer.status
        async with session.get("/api/v1/symbols", headers={"Authorization": f"Bearer {token}x"}) as wrong:
            told = await wrong.text()
        async with session.get("/api/v1/symbols", headers={"Authorization": f"Bearer {token}"}) as right:
            pass

    assert answers == {
        "/api/v1/symbols": 401, "/api/docs": 401, "/api/v1/openapi.json": 401, "/healthz": 204, "/readyz": 200,
    }  # fmt: skip
    assert (wrong.status, right.status) == (401, 200)
    assert right.headers["Cache-Control"] == "private, no-cache"
    assert token not in told


@pytest.mark.usefixtures("database_server")
def test_a_server_that_others_reach_needs_a_long_token() -> None:
    with pytest.raises(UsageError, match=r"expected WEB_TOKEN to be set, because WEB_HOST 192\.0\.2\.1 can be reached"):
        check_token("192.0.2.1", None)
    with pytest.raises(UsageError, match="at least 16 characters, got a shorter one"):
        check_token("127.0.0.1", SecretStr("short"))
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_token(host, None)


async def test_readiness_tells_that_the_database_is_gone(history_url: str) -> None:
    async with served(history_url) as base, aiohttp.ClientSession(base) as session:
        async with session.get("/readyz") as ready:
            told = await ready.json()
        await _drop(history_url)
        async with session.get("/readyz") as gone:
            problem = await gone.json()
        async with session.get("/healthz") as alive:
            pass

    assert (ready.status, told["is_healthy"]) == (200, True)
    models.Health.model_validate(told)
    assert (gone.status, problem["title"]) == (503, "The database is unavailable")
    assert alive.status == 204


async def _drop(url: str) -> None:
    base, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{base}/postgres")
    await connection.execute(f'DROP DATABASE "{name.partition("?")[0]}" WITH (FORCE)')
    await connection.close()


async def test_closed_candles_arrive_as_events(client: aiohttp.ClientSession, history_url: str) -> None:
    """First those since the last event that the client got, then those that close while it listens."""
    minute = START
    headers = {"Last-Event-ID": "2026-01-05T10:59:00Z"}
    events: list[str] = []
    candles: list[str] = []
    async with (
        asyncio.timeout(90),
        client.get("/api/v1/events/candles", params={"symbol": "BTC/USDT"}, headers=headers) as stream,
        asyncpg.create_pool(history_url, min_size=1, max_size=1) as pool,
    ):
        async for line in stream.content:
            word, _, value = line.decode().strip().partition(": ")
            if word == "id":
                events.append(value)
            elif word == "data":
                candles.append(json.loads(value)["timestamp"])
            elif value == "following":
                minute = floor_minute(datetime.now(UTC))
                live = [msgspec.structs.replace(HOUR[0], id=362 + n, timestamp=minute + n * MINUTE) for n in range(2)]
                await Store(pool).write(live)  # the second one closes the candle of the first
            if len(candles) == 3:
                break

    assert stream.headers["Content-Type"].startswith("text/event-stream")
    assert events == ["2026-01-05T11:00:00Z", "2026-01-05T11:01:00Z", instant(minute + MINUTE)]
    assert candles == ["2026-01-05T10:59:00Z", "2026-01-05T11:00:00Z", instant(minute)]


async def test_viewers_of_the_same_candles_share_one_connection(base: str, history_url: str) -> None:
    async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(limit=0)) as session:
        streams = [await session.get("/api/v1/events/candles", params={"symbol": "BTC/USDT"}) for _ in range(20)]
        for stream in streams:
            assert await stream.content.readline() == b": following\n"
        connection = await asyncpg.connect(history_url)
        listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'"
        assert await connection.fetchval(listening) == 1
        for stream in streams:
            stream.close()

        async def is_left() -> bool:
            return bool(await connection.fetchval(listening) == 0)

        await until(is_left)
        await connection.close()
