"""What every public read says about a hole, a quiet, a dropped and an exchange-only stretch, with each ``gaps=``."""

import inspect
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.database.connections import create_pool
from kraken_history.errors import CoverageError, InvalidChoice
from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import MINUTE, TimeRange
from tests.coverage_reads.stretches import (
    MISSING_CANDLES,
    MISSING_TRADES,
    STRETCHES,
    SYMBOL,
    TRADED,
    WHOLE,
    store_stretches,
)
from tests.support.command import Run
from tests.support.examples import NOON
from tests.support.servers import Background

Provider = HistoricalDataProvider
Read = Callable[[Provider, TimeRange, Any], Awaitable[list[Any]]]


def count(span: TimeRange) -> int:
    return span.duration // MINUTE


async def until_end(records: AsyncGenerator[Any, None], span: TimeRange) -> list[Any]:
    found = []
    async with aclosing(records) as each:
        async for record in each:
            if record.timestamp >= span.end:
                break
            found.append(record)
    return found


async def multi_timeframe(p: Provider, span: TimeRange, gaps: Any) -> list[Any]:
    return (await p.get_multi_timeframe_candles(SYMBOL, span.end, [1], lookback=count(span), gaps=gaps))[1]


async def frame(p: Provider, span: TimeRange, gaps: Any) -> list[Any]:
    return (await p.get_candles_frame(SYMBOL, 1, span.start, span.end, gaps=gaps)).rows()


async def arrow(p: Provider, span: TimeRange, gaps: Any) -> list[Any]:
    return (await p.get_candles_arrow(SYMBOL, 1, span.start, span.end, gaps=gaps)).to_pylist()


async def trades_arrow(p: Provider, span: TimeRange, gaps: Any) -> list[Any]:
    return (await p.get_trades_arrow(SYMBOL, span.start, span.end, gaps=gaps)).to_pylist()


async def trades_frame(p: Provider, span: TimeRange, gaps: Any) -> list[Any]:
    return (await p.get_trades_frame(SYMBOL, span.start, span.end, gaps=gaps)).rows()


async def drained(records: AsyncIterator[Any]) -> list[Any]:
    return [record async for record in records]


CANDLE_READS: dict[str, Read] = {
    "get_candles": lambda p, span, gaps: p.get_candles(SYMBOL, 1, span.start, span.end, gaps=gaps),
    "get_candles_arrow": arrow,
    "get_candles_frame": frame,
    "get_latest_candles": lambda p, span, gaps: p.get_latest_candles(SYMBOL, 1, count(span), end=span.end, gaps=gaps),
    "get_warmup_data": lambda p, span, gaps: p.get_warmup_data(SYMBOL, 1, count(span), end=span.end, gaps=gaps),
    "get_multi_timeframe_candles": multi_timeframe,
    "replay_candles": lambda p, span, gaps: drained(p.replay_candles(SYMBOL, 1, span.start, span.end, 0, gaps=gaps)),
    "replay": lambda p, span, gaps: drained(p.replay([SYMBOL], [1], span.start, span.end, 0, gaps=gaps)),
    "follow_candles": lambda p, span, gaps: until_end(p.follow_candles([SYMBOL], 1, start=span.start, gaps=gaps), span),
}
TRADE_READS: dict[str, Read] = {
    "get_trades": lambda p, span, gaps: p.get_trades(SYMBOL, span.start, span.end, gaps=gaps),
    "replay_trades": lambda p, span, gaps: drained(p.replay_trades(SYMBOL, span.start, span.end, 0, gaps=gaps)),
    "get_trades_arrow": trades_arrow,
    "get_trades_frame": trades_frame,
}
BY_COUNT = ("get_latest_candles", "get_warmup_data")
"""Reads of a number of candles, which go back as far as they must."""

DEFAULTS = dict.fromkeys([*CANDLE_READS, *TRADE_READS], "raise") | {
    "get_candles": None,  # raise, and ignore with as_of
    "get_latest_candles": "ignore",
    "follow_candles": "ignore",
}
OF_NO_RECORDS = {
    *("connect", "close"),
    *("get_coverage", "require_complete", "verify"),  # these are the answer
    *("find_symbol", "get_symbols", "get_sync_status", "get_data_range", "health_check"),  # counts and names
    "get_external_indicators",  # daily figures, which no trade proves
    *("save_run", "list_runs", "load_run"),  # carry the coverage of what they were computed on
}


@pytest.fixture
async def history(migrated_database_url: str) -> AsyncIterator[HistoricalDataProvider]:
    async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
        await store_stretches(pool)
    async with HistoricalDataProvider(migrated_database_url, 1, 2) as history:
        yield history


@pytest.fixture
def filled_url(migrated_database_url: str, background: Background) -> str:
    async def fill() -> None:
        async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
            await store_stretches(pool)

    background.run(fill())
    return migrated_database_url


def public_methods(kind: type) -> dict[str, Any]:
    return {name: method for name, method in vars(kind).items() if name[0] != "_" and callable(method)}


@pytest.mark.parametrize("kind", [HistoricalDataProvider, BlockingHistoricalDataProvider])
def test_every_read_of_records_takes_gaps_and_is_tested_here(kind: type) -> None:
    defaults = {
        name: inspect.signature(method).parameters["gaps"].default
        for name, method in public_methods(kind).items()
        if name not in OF_NO_RECORDS
    }

    assert defaults == DEFAULTS


def overlaps(span: TimeRange, others: Iterable[TimeRange]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)


def stored_in(span: TimeRange, *, candles: bool) -> int:
    """How many one-minute candles or trades are stored in a span."""
    minutes = set(TRADED) | (set(range(60, 71)) if candles else set())
    return len([n for n in minutes if span.start <= NOON + n * MINUTE < span.end])


@pytest.mark.parametrize("name", CANDLE_READS)
async def test_a_read_of_candles_says_what_is_missing(name: str, history: HistoricalDataProvider) -> None:
    read = CANDLE_READS[name]
    for kind, span in STRETCHES.items():
        stored = stored_in(span, candles=True)
        ignored, padded = await read(history, span, "ignore"), await read(history, span, "pad")

        assert len(ignored) == (count(span) if name in BY_COUNT else stored), kind
        assert len(padded) == count(span), kind
        if kind in ("hole", "dropped"):
            with pytest.raises(CoverageError) as refusal:
                await read(history, span, "raise")
            assert refusal.value.gaps[-1].start == span.start
            assert refusal.value.gaps == tuple(each for each in MISSING_CANDLES if overlaps(span, [each]))
        else:
            assert await read(history, span, "raise") == ignored


@pytest.mark.parametrize("name", TRADE_READS)
async def test_a_read_of_trades_says_what_is_missing(name: str, history: HistoricalDataProvider) -> None:
    read = TRADE_READS[name]
    for kind, span in STRETCHES.items():
        ignored = await read(history, span, "ignore")

        assert len(ignored) == stored_in(span, candles=False), kind
        if kind in ("hole", "dropped", "exchange"):
            with pytest.raises(CoverageError) as refusal:
                await read(history, span, "raise")
            assert refusal.value.gaps == (span,)
        else:
            assert await read(history, span, "raise") == ignored
    for gaps in ("pad", "fill", "skip"):
        with pytest.raises(InvalidChoice, match="gaps: expected one of ignore, raise, got"):
            await read(history, STRETCHES["proven"], gaps)


@pytest.mark.parametrize("name", CANDLE_READS)
async def test_fill_is_pad_and_no_other_word_is_taken(name: str, history: HistoricalDataProvider) -> None:
    read, span = CANDLE_READS[name], STRETCHES["quiet"]

    assert await read(history, span, "fill") == await read(history, span, "pad")
    with pytest.raises(InvalidChoice, match="gaps: expected one of ignore, raise, pad, fill, got 'skip'"):
        await read(history, span, "skip")


@pytest.mark.parametrize("name", [name for name in DEFAULTS if name not in ("get_latest_candles", "follow_candles")])
async def test_whoever_does_not_think_about_gaps_is_not_fooled(name: str, history: HistoricalDataProvider) -> None:
    """A backtest over a hole of 992 days once reported a profit and saved it."""
    calls: dict[str, Callable[[], Any]] = {
        "get_candles": lambda: history.get_candles(SYMBOL, 1, WHOLE.start, WHOLE.end),
        "get_candles_arrow": lambda: history.get_candles_arrow(SYMBOL, 1, WHOLE.start, WHOLE.end),
        "get_candles_frame": lambda: history.get_candles_frame(SYMBOL, 1, WHOLE.start, WHOLE.end),
        "get_warmup_data": lambda: history.get_warmup_data(SYMBOL, 1, 80, end=WHOLE.end),
        "get_multi_timeframe_candles": lambda: history.get_multi_timeframe_candles(SYMBOL, WHOLE.end, [1, 5]),
        "replay_candles": lambda: drained(history.replay_candles(SYMBOL, 1, WHOLE.start, WHOLE.end, speed=0)),
        "replay": lambda: drained(history.replay([SYMBOL], [1, 5], WHOLE.start, WHOLE.end, speed=0)),
        "get_trades": lambda: history.get_trades(SYMBOL, WHOLE.start, WHOLE.end),
        "replay_trades": lambda: drained(history.replay_trades(SYMBOL, WHOLE.start, WHOLE.end, speed=0)),
        "get_trades_arrow": lambda: history.get_trades_arrow(SYMBOL, WHOLE.start, WHOLE.end),
        "get_trades_frame": lambda: history.get_trades_frame(SYMBOL, WHOLE.start, WHOLE.end),
    }

    with pytest.raises(CoverageError) as refusal:
        await calls[name]()
    if name in TRADE_READS:
        assert list(refusal.value.gaps) == MISSING_TRADES
    elif name in ("get_warmup_data", "get_multi_timeframe_candles"):
        assert set(refusal.value.gaps) <= set(MISSING_CANDLES)
    else:
        assert list(refusal.value.gaps) == MISSING_CANDLES
    assert refusal.value.dropped == (STRETCHES["dropped"],)


def blocking_reads(history: BlockingHistoricalDataProvider) -> dict[str, Callable[[TimeRange, Any], list[Any]]]:
    def multi_timeframe(span: TimeRange, gaps: Any) -> list[Any]:
        return history.get_multi_timeframe_candles(SYMBOL, span.end, [1], lookback=count(span), gaps=gaps)[1]

    def follow(span: TimeRange, gaps: Any) -> list[Any]:
        with closing(history.follow_candles([SYMBOL], 1, start=span.start, gaps=gaps)) as candles:
            return list(takewhile(lambda candle: candle.timestamp < span.end, candles))

    return {
        "get_candles": lambda span, gaps: history.get_candles(SYMBOL, 1, span.start, span.end, gaps=gaps),
        "get_candles_arrow": lambda span, gaps: history.get_candles_arrow(
            SYMBOL, 1, span.start, span.end, gaps=gaps
        ).to_pylist(),
        "get_candles_frame": lambda span, gaps: history.get_candles_frame(
            SYMBOL, 1, span.start, span.end, gaps=gaps
        ).rows(),
        "get_latest_candles": lambda span, gaps: history.get_latest_candles(
            SYMBOL, 1, count(span), end=span.end, gaps=gaps
        ),
        "get_warmup_data": lambda span, gaps: history.get_warmup_data(SYMBOL, 1, count(span), end=span.end, gaps=gaps),
        "get_multi_timeframe_candles": multi_timeframe,
        "replay_candles": lambda span, gaps: list(
            history.replay_candles(SYMBOL, 1, span.start, span.end, 0, gaps=gaps)
        ),
        "replay": lambda span, gaps: list(history.replay([SYMBOL], [1], span.start, span.end, 0, gaps=gaps)),
        "follow_candles": follow,
        "get_trades": lambda span, gaps: history.get_trades(SYMBOL, span.start, span.end, gaps=gaps),
        "replay_trades": lambda span, gaps: list(history.replay_trades(SYMBOL, span.start, span.end, 0, gaps=gaps)),
        "get_trades_arrow": lambda span, gaps: history.get_trades_arrow(
            SYMBOL, span.start, span.end, gaps=gaps
        ).to_pylist(),
        "get_trades_frame": lambda span, gaps: history.get_trades_frame(SYMBOL, span.start, span.end, gaps=gaps).rows(),
    }


def test_the_blocking_provider_says_the_same(filled_url: str) -> None:
    with BlockingHistoricalDataProvider(filled_url, 1, 2) as history:
        reads = blocking_reads(history)
        assert set(reads) == set(DEFAULTS)
        for name, read in reads.items():
            with pytest.raises(CoverageError):
                read(STRETCHES["hole"], "raise")
            assert read(STRETCHES["quiet"], "raise") == read(STRETCHES["quiet"], "ignore"), name
            if name in CANDLE_READS:
                assert len(read(STRETCHES["hole"], "pad")) == count(STRETCHES["hole"])


def test_commands_say_what_is_missing(
    filled_url: str, command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def typed(span: TimeRange) -> tuple[str, ...]:
        return (SYMBOL, "--from", span.start.isoformat(), "--to", span.end.isoformat())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", filled_url)
    shows = "of this range is missing: `kraken-history coverage BTC/USDT --from"
    for kind, span in STRETCHES.items():
        stored = stored_in(span, candles=True)
        is_missing = kind in ("hole", "dropped")
        shown = command("candles", *typed(span), "--format", "json")
        padded = command("candles", *typed(span), "--format", "json", "--gaps", "pad")
        refused = command("candles", *typed(span), "--gaps", "raise")
        exported = command("export", *typed(span), "--output", f"{kind}.csv")
        ignored = command("export", *typed(span), "--output", f"{kind}-ignored.csv", "--gaps", "ignore")
        flat = command("export", *typed(span), "--output", f"{kind}-padded.csv", "--gaps", "pad")

        assert (shown.code, padded.code, ignored.code, flat.code) == (0, 0, 0, 0), kind
        assert len(json.loads(shown.out)) == stored
        assert [row["is_made_up"] for row in json.loads(padded.out)].count("true") == count(span) - stored
        assert (shows in shown.err, shows in padded.err) == (is_missing, is_missing)
        assert (refused.code, exported.code) == ((1, 1) if is_missing else (0, 0))
        assert len(Path(f"{kind}-ignored.csv").read_text().splitlines()) == 1 + stored
        assert len(Path(f"{kind}-padded.csv").read_text().splitlines()) == 1 + count(span)
        if is_missing:
            assert not Path(f"{kind}.csv").exists()
            for complaint in (refused.err, exported.err):
                assert complaint.count("\n") == 1
                assert "add --gaps ignore" in complaint
                assert (
                    "retention has dropped it" if kind == "dropped" else "`kraken-history backfill BTC/USDT"
                ) in complaint
