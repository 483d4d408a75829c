"""Reads many candles at once: the server writes each as a line of JSON, and one decoder makes the records.

A driver that fetches rows makes an object of every value and a row of them, and a record is then made of the row.
Here the records are made straight from the answer's text, which has every digit.
"""

import re

import msgspec

from kraken_history.database.connections import Connection
from kraken_history.records import HistoricalCandle

FEWEST_BUCKETS = 1_000
"""Buckets of a read from which on its candles are copied. A shorter read profits more from a prepared statement."""

_DECODED_BYTES = 256 * 1024  # decoded at once, so that other tasks run in between

_PLAIN_SYMBOL = re.compile(r"[A-Za-z0-9./]+")
_NUMBERS = ("open", "high", "low", "close", "volume", "quote_volume")
_ROW = (
    " || ',' || ".join(f"trim_scale({name})" for name in _NUMBERS)
    + " || ',' || trade_count || ',' || trim_scale(vwap) || ',\"' || source || '\"]'"
)
_candles = msgspec.json.Decoder(list[HistoricalCandle], strict=False)  # not strict: a time is its Unix time


class NotPlain(Exception):
    """A candle or its symbol is not written as this module reads it, such as a number that is NaN."""


async def copy_candles(connection: Connection, select: str, symbol: str, interval: int) -> list[HistoricalCandle]:
    """The candles of a query, oldest first.

    Args:
        select: A query with literals whose rows have the columns of a candle, all of this symbol and interval.

    Raises:
        NotPlain: The rows must be fetched instead.
    """
    if not _PLAIN_SYMBOL.fullmatch(symbol):
        raise NotPlain
    row = f"'[\"{symbol}\",' || extract(epoch FROM timestamp)::bigint || ',{interval},' || {_ROW}"
    copied = _Copied()
    await connection.copy_from_query(
        f"SELECT {row} FROM ({select}) AS c ORDER BY timestamp",  # noqa: S608 — our own SQL
        output=copied.take,
    )
    return copied.all()


class _Copied:
    """Decodes the lines of a COPY as they arrive. An error is kept to the end, so that the COPY ends as it should."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._candles: list[HistoricalCandle] = []
        self._is_plain = True

    async def take(self, text: bytes) -> None:
        self._text += text
        if len(self._text) >= _DECODED_BYTES:
            self._decode()

    def all(self) -> list[HistoricalCandle]:
        self._decode()
        if not self._is_plain:
            raise NotPlain
        return self._candles

    def _decode(self) -> None:
        end = self._text.rfind(b"\n")
        if end < 0 or not self._is_plain:
            return
        lines = bytes(self._text[:end]).replace(b"\n", b",")
        del self._text[: end + 1]
        try:
            self._candles += _candles.decode(b"[%b]" % lines)
        except msgspec.MsgspecError:
            self._is_plain = False
