"""Every name of a symbol in SYMBOLS, in the worker's jobs, in imports and in the simulator; xStocks from end to end."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from consumers.consumer import Consumer
from jobs.backfill import backfill
from jobs.context import WorkerContext
from jobs.csv_import import import_csv
from jobs.gaps import fill_gap, look_names_up
from kraken_history.csv_import import CsvImporter, Imported, found_files
from kraken_history.database.connections import create_pool
from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import ServiceUnavailable, UnknownSymbol
from kraken_history.fetching.backfill import backfill_symbol
from kraken_history.fetching.backfill_targets import request_backfill
from kraken_history.fetching.gaps import GapFiller, run_gap_filler
from kraken_history.fetching.queue import FILL_GAP, JobQueue
from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.resolver import Resolver
from kraken_history.kraken.rest import decode_asset_pairs, decode_result
from kraken_history.provider import HistoricalDataProvider
from kraken_history.settings import Settings, load_settings
from kraken_history.storing.store import Store
from kraken_history.stream.publisher import Publisher
from kraken_history.symbols import TOKENIZED_ASSET, Pair
from producers.feed import Feed
from simulator import Simulator
from simulator.books import make_books
from tests.names.conftest import EVERY_NAME, NAMES, SYMBOLS
from tests.support.csv_files import candle_line, write
from tests.support.kraken import NoLimit, assert_equals_truth
from tests.support.queue import connect_queue
from tests.support.streams import STREAMS
from tests.support.waiting import until

STOCK = "AAPLx/USD"


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture
async def rest(kraken: Simulator) -> AsyncIterator[KrakenRest]:
    async with KrakenRest(kraken.rest_url, NoLimit(), attempts=1) as rest:
        yield rest


@pytest.fixture
async def context(pool: asyncpg.Pool, rest: KrakenRest, redis_url: str) -> AsyncIterator[WorkerContext]:
    async with await connect_queue(redis_url) as arq:
        settings = Settings(history_days=1)
        yield WorkerContext(settings, pool, Store(pool), rest, Resolver(rest.fetch_asset_pairs), JobQueue(arq))


async def truly_stored(pool: asyncpg.Pool, kraken: Simulator, symbol: str) -> bool:
    """Whether all trades of one pair are stored under its symbol, and nothing of any other is."""
    trades = await pool.fetchval("SELECT count(*) FROM trades WHERE symbol = $1", symbol)
    return await fetch_stored_symbols(pool) == [symbol] and trades == len(kraken.exchange.tapes[symbol])


class TestFetching:
    """The functions of the library that ask Kraken."""

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_backfill_symbol(
        self, symbol: str, name: str, pool: asyncpg.Pool, rest: KrakenRest, kraken: Simulator
    ) -> None:
        assert await backfill_symbol(pool, name, rest=rest) == len(kraken.exchange.tapes[symbol])
        assert await truly_stored(pool, kraken, symbol)

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_run_gap_filler(
        self, symbol: str, name: str, migrated_database_url: str, pool: asyncpg.Pool, kraken: Simulator
    ) -> None:
        summary = await run_gap_filler(
            migrated_database_url, symbols=[name, symbol], history_days=1, kraken_rest_url=kraken.rest_url,
            limiter=NoLimit(),
        )  # fmt: skip

        assert (summary["gaps_detected"], summary["gaps_filled"], summary["errors"]) == (1, 1, [])
        assert await truly_stored(pool, kraken, symbol)

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_gap_filler(
        self, symbol: str, name: str, pool: asyncpg.Pool, rest: KrakenRest, kraken: Simulator
    ) -> None:
        pairs = Resolver(rest.fetch_asset_pairs)
        filler = GapFiller(pool, Store(pool), rest, pairs.find, symbols=[name], history_days=1)
        (gap,) = await filler.detect_gaps()
        renamed = type(gap).between(name, "trades", gap.start_time, gap.end_time)

        assert gap.symbol == symbol
        assert await filler.fill_gap_ohlc(renamed) > 0
        assert await filler.fill_gap_trades(renamed) == len(kraken.exchange.tapes[symbol])
        assert await truly_stored(pool, kraken, symbol)


class TestJobs:
    """What is in the worker's queue by any name."""

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_filling_a_gap(
        self, symbol: str, name: str, context: WorkerContext, redis_url: str, kraken: Simulator
    ) -> None:
        async with Redis.from_url(redis_url) as redis:
            await fill_gap({"context": context, "redis": redis}, name, 1.0, 0)

        assert await fetch_stored_symbols(context.pool) == [symbol]

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_a_backfill(self, symbol: str, name: str, context: WorkerContext, kraken: Simulator) -> None:
        await request_backfill(context.pool, symbol)

        await backfill({"context": context}, name)

        assert await truly_stored(context.pool, kraken, symbol)

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_an_import(self, symbol: str, name: str, context: WorkerContext, tmp_path: Path) -> None:
        path = write(tmp_path / "whatever_1.csv", [candle_line(0)])

        assert await import_csv({"context": context, "job_try": 1}, [str(path)], name) == 1
        assert await fetch_stored_symbols(context.pool) == [symbol]

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_the_settings(
        self, symbol: str, name: str, context: WorkerContext, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SYMBOLS", f"{name},{symbol}")
        context.settings = load_settings()

        async with await connect_queue(redis_url) as arq:
            await look_names_up({"context": context, "redis": arq})
            jobs = [job.args[0] for job in await arq.queued_jobs() if job.function == FILL_GAP]
        assert context.symbols == [symbol]
        assert jobs in ([], [symbol])  # the gaps of a symbol that needs no looking up have been asked for before

    async def test_a_name_in_the_settings_waits_for_kraken_and_nothing_else_does(
        self, context: WorkerContext, rest: KrakenRest
    ) -> None:
        async def away() -> Sequence[Pair]:
            raise ServiceUnavailable("no answer from Kraken")

        context.settings = Settings(symbols=("BTC/USDT", "AAPLxUSD", "XBT/USD"))
        context.pairs = Resolver(away)
        found_without = await context.find_names(), context.symbols
        context.pairs = Resolver(rest.fetch_asset_pairs)
        found_with = await context.find_names(), context.symbols

        assert found_without == (False, ["BTC/USDT", "BTC/USD"])
        assert found_with == (True, ["BTC/USDT", "AAPLx/USD", "BTC/USD"])


class TestTheProducer:
    """It asks the WebSocket, which it has, and not REST, which it has not."""

    @pytest.fixture
    async def redis(self, redis_url: str) -> AsyncIterator[Redis]:
        async with Redis.from_url(redis_url) as redis:
            yield redis

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    async def test_any_name_in_symbols_is_subscribed_and_stored_under_the_symbol(
        self, symbol: str, name: str, redis: Redis, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SYMBOLS", name)
        async with Simulator(symbols=SYMBOLS, emitting=False) as kraken, Publisher(redis) as publisher:
            feed = Feed(publisher, url=kraken.ws_url, symbols=load_settings().symbols)
            running = asyncio.create_task(feed.run())
            await until(lambda: feed.connected)
            batch = kraken.exchange.emit(300)
            kraken.hub.publish(batch)
            consumer = Consumer(redis, Store(pool), name="a", streams=STREAMS)
            stop = asyncio.Event()
            consuming = asyncio.create_task(consumer.run(stop))
            await until(lambda: truly_stored(pool, kraken, symbol))
            stop.set()
            await consuming
            running.cancel()

        assert (feed.symbols, feed.refused, feed.sessions) == ([symbol], {}, 1)

    async def test_a_name_that_is_not_listed_is_refused_and_the_others_go_on(self, redis: Redis) -> None:
        async with Simulator(symbols=SYMBOLS, emitting=False) as kraken, Publisher(redis) as publisher:
            feed = Feed(publisher, url=kraken.ws_url, symbols=["BTC/USDT", "XBTEUR", "aaplxusd", "NO/SUCH"])
            running = asyncio.create_task(feed.run())
            await until(lambda: feed.connected and len(feed.refused) == 2 and "AAPLx/USD" in feed.symbols)
            sessions = feed.sessions
            running.cancel()

        assert feed.refused == {
            "NO/SUCH": "Currency pair not supported NO/SUCH",
            "XBTEUR": "Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT",
        }
        assert (feed.symbols, sessions) == (["BTC/USDT", "AAPLx/USD", "NO/SUCH"], 1)

    async def test_with_no_name_that_is_listed_it_says_so_and_tries_again(self, redis: Redis) -> None:
        async with Simulator(symbols=SYMBOLS, emitting=False) as kraken, Publisher(redis) as publisher:
            feed = Feed(publisher, url=kraken.ws_url, symbols=["XBTEUR"])
            running = asyncio.create_task(feed.run())
            await until(lambda: feed.trouble)
            running.cancel()

        assert feed.trouble == "Kraken refused every symbol (XBTEUR): correct SYMBOLS"


class TestImports:
    """Files of a tokenised pair, and names that Kraken cannot be asked about."""

    async def imported(self, pool: asyncpg.Pool, path: Path, *pairs: Pair, symbol: str | None = None) -> list[Any]:
        async def fetch_pairs() -> Sequence[Pair]:
            if not pairs:
                raise ServiceUnavailable("no answer from Kraken")
            return pairs

        with found_files([path]) as (files, _):
            importer = CsvImporter(pool, fetch_pairs, symbol=symbol)
            return [*[outcome async for outcome in importer.import_files(files)], importer.note]

    async def test_the_recorded_file_of_an_xstock_is_readable_under_its_symbol(
        self, cases: Path, pool: asyncpg.Pool, migrated_database_url: str
    ) -> None:
        listed = decode_asset_pairs(decode_result(200, (cases / "xstocks/AssetPairs_tokenized.json").read_bytes()))
        path = cases / "xstocks/AAPLxUSD_1.csv"

        by_name, by_symbol = await self.imported(pool, path, *listed), await self.imported(pool, path, symbol=STOCK)

        assert listed == [Pair(STOCK, "AAPLxUSD", "AAPLxUSD", STOCK, "online", TOKENIZED_ASSET)]
        assert [(outcome.symbol, outcome.rows) for outcome in (by_name[0], by_symbol[0])] == [(STOCK, 2)] * 2
        async with HistoricalDataProvider(migrated_database_url) as provider:
            assert await provider.get_symbols() == [STOCK]
            assert [candle.symbol for candle in await provider.get_latest_candles("AAPLxUSD", 1, 9)] == [STOCK] * 2

    @pytest.mark.parametrize(
        ("name", "symbol"),
        [("AAPLx/USD", STOCK), ("XBT/EUR", "BTC/EUR"), ("luna/eur", "luna/eur"), ("XXDG/XXBT", "DOGE/BTC")],
    )
    async def test_without_kraken_the_letters_of_a_given_symbol_stay(
        self, name: str, symbol: str, pool: asyncpg.Pool, tmp_path: Path
    ) -> None:
        outcome, note = await self.imported(pool, write(tmp_path / "x_1.csv", [candle_line(0)]), symbol=name)

        assert isinstance(outcome, Imported)
        assert outcome.symbol == symbol
        asked = f"Kraken could not be asked which pair {name} is (no answer from Kraken)"
        assert note == f"{asked}: importing the files as {symbol}"

    async def test_a_pair_that_kraken_has_given_up_can_be_imported_and_this_is_said(
        self, pool: asyncpg.Pool, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "LUNAEUR_1.csv", [candle_line(0)])
        listed = Pair("BTC/EUR", "XBTEUR", "XXBTZEUR", "XBT/EUR")

        first, note = await self.imported(pool, path, listed, symbol="LUNA/EUR")
        again, _ = await self.imported(pool, path, listed, symbol="luna/eur")

        assert (first.symbol, again.symbol) == ("LUNA/EUR", "LUNA/EUR")
        assert note == "Kraken lists no pair LUNA/EUR: importing the files as LUNA/EUR"

    async def test_a_given_name_without_a_slash_needs_kraken(self, pool: asyncpg.Pool, tmp_path: Path) -> None:
        path = write(tmp_path / "x_1.csv", [candle_line(0)])

        with pytest.raises(UnknownSymbol) as away:
            await self.imported(pool, path, symbol="AAPLxUSD")
        with pytest.raises(UnknownSymbol) as not_listed:
            await self.imported(pool, path, Pair("BTC/EUR", "XBTEUR", "XXBTZEUR", "XBT/EUR"), symbol="AAPLxUSD")

        expected = "expected BASE/QUOTE, such as BTC/USDT, got 'AAPLxUSD'"
        asked = "Kraken could not be asked which pair AAPLxUSD is (no answer from Kraken)"
        assert str(away.value) == f"{expected}: {asked}"
        assert str(not_listed.value).startswith("unknown symbol 'AAPLxUSD': Kraken lists no such pair")
        assert await fetch_stored_symbols(pool) == []

    async def test_a_file_of_an_xstock_needs_kraken_or_a_symbol(self, pool: asyncpg.Pool, tmp_path: Path) -> None:
        (refused, _) = await self.imported(pool, write(tmp_path / "AAPLxUSD_1.csv", [candle_line(0)]))

        assert "Kraken could not be asked which pair AAPLxUSD is (no answer from Kraken)" in str(refused)


class TestTheSimulator:
    """It answers for a tokenised pair as Kraken does, as far as that is known."""

    @pytest.mark.parametrize(("symbol", "name"), EVERY_NAME)
    def test_a_book_is_opened_under_any_name(self, symbol: str, name: str) -> None:
        assert [book.symbol for book in make_books([name])] == [symbol]

    def test_asset_pairs_lists_one_class_at_a_time(self, kraken: Simulator) -> None:
        def listed(**params: str) -> list[str]:
            return list(json.loads(kraken.rest.answer("AssetPairs", params, "")).get("result", ()))

        assert listed() == listed(aclass_base="currency") == ["XBTUSDT", "XXBTZUSD"]
        assert listed(aclass_base="tokenized_asset") == ["AAPLxUSD"]
        assert listed(pair="AAPLxUSD") == []
        assert listed(pair="AAPLxUSD", aclass_base="tokenized_asset") == ["AAPLxUSD"]

    @pytest.mark.parametrize("method", ["Trades", "OHLC"])
    def test_without_the_class_the_pair_is_unknown(self, method: str, kraken: Simulator) -> None:
        def error(**params: str) -> list[str]:
            return list(json.loads(kraken.rest.answer(method, params, ""))["error"])

        unknown = ["EQuery:Unknown asset pair"]
        assert error(pair="AAPLxUSD") == error(pair="AAPLxUSD", asset_class="currency") == unknown
        assert error(pair="AAPLXUSD", asset_class="tokenized_asset") == unknown
        assert error(pair="XBTUSDT", asset_class="tokenized_asset") == unknown
        assert error(pair="AAPLxUSD", asset_class="tokenized_asset") == error(pair="XBTUSDT") == []


async def test_a_tokenised_pair_is_whole_after_a_gap_fill(
    pool: asyncpg.Pool, migrated_database_url: str, kraken: Simulator
) -> None:
    summary = await run_gap_filler(
        migrated_database_url, symbols=list(NAMES), history_days=1, kraken_rest_url=kraken.rest_url, limiter=NoLimit()
    )

    assert summary["errors"] == []
    await assert_equals_truth(pool, kraken)
