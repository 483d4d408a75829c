"""The emitted trades, in a form that can be compared with database rows.

A trade's canonical line is ``id,price,volume,side,order_type`` and a newline, numbers in fixed notation
without trailing zeros: :func:`canonical_line`. A book's digest is the sha256 of the lines of all its trades
by rising id: :func:`digest_of`.
"""

import hashlib
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from kraken_history.records import VWAP_DECIMALS
from simulator.books import Book
from simulator.candle_series import Candle
from simulator.notation import VOLUME_DECIMALS, nanosecond_time, normalized
from simulator.tape import Tape, TapeTrade

TRADES_PER_PAGE = 100_000
"""Maximum number of trades per answer of ``/truth/trades``."""


def canonical_line(trade_id: int, price: Decimal, volume: Decimal, side: str, order_type: str) -> str:
    """One trade's line, from the values of a database row: ``10218208,105433.6,0.00027625,buy,limit\\n``."""
    return f"{trade_id},{price.normalize():f},{volume.normalize():f},{side},{order_type}\n"


def digest_of(rows: Iterable[tuple[int, Decimal, Decimal, str, str]]) -> str:
    """The sha256 over rows (id, price, volume, side, order type) by rising id, to compare with ``/truth``."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_line(*row).encode())
    return digest.hexdigest()


class Witness:
    """Keeps the digest of one tape. It hashes new trades on request, in portions, so that a request stays short."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._digest = hashlib.sha256()
        self._hashed = 0

    @property
    def not_hashed(self) -> int:
        """Number of trades that are not in the digest yet."""
        return len(self._tape) - self._hashed

    def advance(self, count: int) -> None:
        """Hash up to ``count`` more trades."""
        trades = self._tape.trades(self._hashed, self._hashed + count)
        self._digest.update("".join(_line(self._tape.book, trade) for trade in trades).encode())
        self._hashed += len(trades)

    def summary(self) -> dict[str, object]:
        """Count, ids, volume and digest of everything emitted until now."""
        self.advance(self.not_hashed)
        return {
            "count": len(self._tape),
            "first_id": self._tape.first_id,
            "last_id": self._tape.last_id,
            "volume": normalized(self._tape.total_volume, VOLUME_DECIMALS),
            "sha256": self._digest.hexdigest(),
        }


def trades_page(tape: Tape, from_id: int | None, to_id: int | None) -> dict[str, Any]:
    """Trades with ``from_id <= id <= to_id``, at most :data:`TRADES_PER_PAGE` of them.

    ``next_id`` is the first id of the next page, None at the end.
    """
    start = 0 if from_id is None else tape.place_of_id(from_id)
    stop = len(tape) if to_id is None else tape.place_of_id(to_id + 1)
    end = min(stop, start + TRADES_PER_PAGE)
    following = tape.trades(end, end + 1) if end < stop else []
    return {
        "symbol": tape.book.symbol,
        "trades": [_trade_row(tape.book, trade) for trade in tape.trades(start, end)],
        "next_id": following[0].id if following else None,
    }


def candles_page(tape: Tape, interval_minutes: int) -> dict[str, Any]:
    """All candles of an interval that have trades; any length, beginning at multiples of it since 1970."""
    candles = tape.candles_once(interval_minutes).all()
    return {
        "symbol": tape.book.symbol,
        "interval": interval_minutes,
        "candles": [_candle_row(tape.book, candle) for candle in candles],
    }


def encode(answer: object) -> bytes:
    """JSON bytes."""
    return json.dumps(answer, separators=(",", ":")).encode()


def _line(book: Book, trade: TapeTrade) -> str:
    price = normalized(trade.price, book.price_decimals)
    return f"{trade.id},{price},{normalized(trade.volume, VOLUME_DECIMALS)},{trade.side},{trade.order_type}\n"


def _trade_row(book: Book, trade: TapeTrade) -> dict[str, object]:
    return {
        "id": trade.id,
        "time_ns": trade.time_ns,
        "price": normalized(trade.price, book.price_decimals),
        "volume": normalized(trade.volume, VOLUME_DECIMALS),
        "side": trade.side,
        "order_type": trade.order_type,
        "misc": trade.misc,
    }


def _candle_row(book: Book, candle: Candle) -> dict[str, object]:
    price_decimals = book.price_decimals
    return {
        "time": candle.begin_s,
        "timestamp": nanosecond_time(candle.begin_s * 10**9),
        "open": normalized(candle.open, price_decimals),
        "high": normalized(candle.high, price_decimals),
        "low": normalized(candle.low, price_decimals),
        "close": normalized(candle.close, price_decimals),
        "volume": normalized(candle.volume, VOLUME_DECIMALS),
        "quote_volume": normalized(candle.quote, price_decimals + VOLUME_DECIMALS),
        "vwap": normalized(candle.quote * 10 ** (VWAP_DECIMALS - price_decimals) // candle.volume, VWAP_DECIMALS),
        "count": candle.count,
    }
