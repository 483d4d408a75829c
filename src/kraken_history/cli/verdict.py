"""Compares the database with the trades and candles that the simulator reports as sent.

The simulator's digest of a book is the sha256 over one line ``id,price,volume,side,order_type`` per trade, each
ended by a newline, in order of ids, with numbers in fixed notation without trailing zeros.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import Connection

_ROWS_AT_ONCE = 10_000


class TruthOfSymbol(Struct, frozen=True):
    """The simulator's summary of the trades of one symbol."""

    count: int
    first_id: int | None
    last_id: int | None
    volume: Decimal
    sha256: str


class TrueCandle(Struct, frozen=True):
    """One candle as the simulator computed it."""

    timestamp: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    vwap: Decimal
    count: int


class StoredTrades(Struct, frozen=True):
    """Summary of the stored trades of one symbol.

    Attributes:
        count: Distinct ids.
        in_range: Distinct ids between the first and the last sent id.
        duplicates: Rows beyond the first per id.
    """

    count: int
    in_range: int
    duplicates: int
    sha256: str


class SymbolVerdict(Struct, frozen=True):
    """Result of comparing one symbol's trades."""

    sent: int
    stored: int
    missing: int
    duplicates: int
    is_equal: bool


class CandlesVerdict(Struct, frozen=True):
    """Number of compared candles, and how many of them differ, are missing, or are surplus."""

    checked: int
    mismatched: int


class Verdict(Struct, frozen=True):
    """Result of the whole comparison."""

    symbols: dict[str, SymbolVerdict]
    candles: CandlesVerdict

    @property
    def ok(self) -> bool:
        """Whether at least one trade was sent, and exactly the sent trades and candles are stored."""
        return (
            any(symbol.sent for symbol in self.symbols.values())
            and all(symbol.is_equal for symbol in self.symbols.values())
            and not self.candles.mismatched
        )

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        sent = sum(symbol.sent for symbol in self.symbols.values())
        if self.ok:
            return (
                f"equal: all {sent:,} trades of {len(self.symbols)} symbols are stored exactly once,"
                f" and all {self.candles.checked:,} one-minute candles agree"
            )
        if not sent:
            return "no verdict: the simulator sent no trade"
        missing = sum(symbol.missing for symbol in self.symbols.values())
        duplicates = sum(symbol.duplicates for symbol in self.symbols.values())
        differing = [name for name, symbol in self.symbols.items() if not symbol.is_equal]
        return (
            f"NOT EQUAL: of {sent:,} trades {missing:,} are missing and {duplicates:,} stored twice;"
            f" trades differ for {', '.join(differing) or 'no symbol'};"
            f" {self.candles.mismatched:,} of {self.candles.checked:,} one-minute candles differ"
        )


def judge_symbol(truth: TruthOfSymbol, stored: StoredTrades) -> SymbolVerdict:
    """Compare one symbol's trades."""
    missing = truth.count - stored.in_range
    is_equal = not missing and not stored.duplicates and stored.count == truth.count and stored.sha256 == truth.sha256
    return SymbolVerdict(truth.count, stored.count, missing, stored.duplicates, is_equal)


def judge_candles(truth: Sequence[TrueCandle], stored: Sequence[TrueCandle]) -> CandlesVerdict:
    """Compare one symbol's one-minute candles in every value."""
    expected = {candle.timestamp: candle for candle in truth}
    found = {candle.timestamp: candle for candle in stored}
    minutes = expected.keys() | found.keys()
    return CandlesVerdict(len(minutes), sum(expected.get(minute) != found.get(minute) for minute in minutes))


def digest_of(rows: Iterable[asyncpg.Record], digest: "hashlib._Hash") -> None:
    """Add database rows, in order of ids, to a digest."""
    digest.update("".join(map(_line, rows)).encode())


def _line(row: asyncpg.Record) -> str:
    id_, price, volume, side, order_type = row
    return f"{id_},{price.normalize():f},{volume.normalize():f},{side},{order_type}\n"


async def judge(
    connection: Connection, truth: Mapping[str, TruthOfSymbol], candles: Mapping[str, Sequence[TrueCandle]]
) -> Verdict:
    """Compare the stored trades and candles of each symbol with the truth."""
    symbols, checked, mismatched = {}, 0, 0
    for symbol, expected in truth.items():
        symbols[symbol] = judge_symbol(expected, await fetch_trades(connection, symbol, expected))
        of_symbol = judge_candles(candles[symbol], await fetch_candles(connection, symbol))
        checked += of_symbol.checked
        mismatched += of_symbol.mismatched
    return Verdict(symbols, CandlesVerdict(checked, mismatched))


async def fetch_trades(connection: Connection, symbol: str, truth: TruthOfSymbol) -> StoredTrades:
    """Count and digest the rows of one symbol."""
    counts = await connection.fetchrow(
        """
        SELECT count(DISTINCT id) AS ids, count(*) - count(DISTINCT id) AS duplicates,
               count(DISTINCT id) FILTER (WHERE id BETWEEN $2 AND $3) AS in_range
        FROM trades WHERE symbol = $1
        """,
        symbol,
        truth.first_id,
        truth.last_id,
    )
    assert counts is not None
    digest = hashlib.sha256()
    async with connection.transaction(readonly=True):
        rows: list[asyncpg.Record] = []
        async for row in connection.cursor(
            "SELECT id, price, volume, side, order_type FROM trades WHERE symbol = $1 ORDER BY id",
            symbol,
            prefetch=_ROWS_AT_ONCE,
        ):
            rows.append(row)
            if len(rows) == _ROWS_AT_ONCE:
                digest_of(rows, digest)
                rows.clear()
    digest_of(rows, digest)
    return StoredTrades(counts["ids"], counts["in_range"], counts["duplicates"], digest.hexdigest())


async def fetch_candles(connection: Connection, symbol: str) -> list[TrueCandle]:
    """The stored one-minute candles of a symbol."""
    rows = await connection.fetch(
        """
        SELECT timestamp, open, high, low, close, volume, quote_volume, vwap, trade_count AS count
        FROM candles WHERE symbol = $1 AND interval_minutes = 1
        """,
        symbol,
    )
    return [TrueCandle(**row) for row in rows]
