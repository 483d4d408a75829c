"""What the simulated Kraken has traded, and what the database makes of it."""

from collections.abc import Sequence

import asyncpg

from kraken_history.kraken.client import KrakenRest
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade
from kraken_history.storing.candle_deltas import build_candles
from kraken_history.symbols import Pair
from simulator import Simulator
from tests.support.database import ledger, stored_candles, stored_ids
from tests.support.exchanges import ManualClock
from tests.support.kraken import all_trades


def true_ids(kraken: Simulator, symbol: str) -> list[int]:
    """The ids of all trades of a book."""
    tape = kraken.exchange.tapes[symbol]
    return [trade.id for trade in tape.trades(0, len(tape))]


async def assert_complete(pool: asyncpg.Pool, kraken: Simulator, rest: KrakenRest, pair: Pair) -> None:
    """Every trade is stored once, the ledger says so, and every candle is the truth."""
    trades = await all_trades(rest, pair)
    ids = true_ids(kraken, pair.symbol)
    assert [trade.id for trade in trades] == ids
    assert await stored_ids(pool) == ids
    assert (await ledger(pool))[pair.symbol] == IdRanges.of(ids)
    assert await stored_candles(pool) == build_candles(trades)


def emit_over(kraken: Simulator, minutes: int, trades_a_minute: int) -> None:
    """Let simulated minutes go by, trades at twelve moments of each."""
    clock = kraken.clock.source
    assert isinstance(clock, ManualClock)
    for _ in range(minutes * 12):
        clock.advance(5)
        kraken.emit(trades_a_minute // 12)


def without(trades: Sequence[HistoricalTrade], *lost: slice) -> list[HistoricalTrade]:
    """The trades but for some."""
    gone = {trade.id for part in lost for trade in trades[part]}
    return [trade for trade in trades if trade.id not in gone]
