"""The format of the streams in Redis: names of streams and groups, and the encoding of entries.

An entry holds the trades (or the running candles) of one symbol and one micro-batch, in MessagePack under
``d``, with the version of this format under ``v``. An entry of trades may list refused trades under ``r``. A reader
that does not know this field reads the trades, and misses the ids of the refused ones. Streams are sharded by symbol;
because of the braces, a Redis Cluster keeps the streams of a shard in one slot.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.numbers import (
    MOST_REFUSED_ALONE,
    check_symbol,
    checked_candle,
    checked_trade,
    is_possible_time,
)
from kraken_history.records import HistoricalCandle, HistoricalTrade, RefusedTrade, TradeId

FORMAT_VERSION = b"1"
VERSION_FIELD = b"v"
DATA_FIELD = b"d"
REFUSED_FIELD = b"r"

STORE_GROUP = "store"
"""The consumer group that writes into the database. Other groups may read the same streams."""

PREFIX = "kraken"
"""First part of the streams' names, unless another is configured."""

DEAD_LETTERS = f"{PREFIX}:dead-letters"
"""The stream of dead letters, with the usual prefix."""

Fields = dict[Any, Any]  # of bytes; redis-py's own, wider union is invariant, so a narrower type does not match it

_encoder = msgspec.msgpack.Encoder()
_trades = msgspec.msgpack.Decoder(list[HistoricalTrade])
_candles = msgspec.msgpack.Decoder(list[HistoricalCandle])
_refused_trades = msgspec.msgpack.Decoder(list[RefusedTrade])
_raw_rows = msgspec.msgpack.Decoder(list[msgspec.Raw])
_any_row = msgspec.msgpack.Decoder(list[Any])

LARGEST_ENTRY = 16 * 2**20
"""Bytes of an entry's records. A publisher's entry of 200 trades has about 10 kB."""

_INVALID = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


class BadRow(Struct, frozen=True):
    """A row of an entry that is not a valid trade.

    Attributes:
        fields: An entry of this row alone.
    """

    reason: str
    fields: Mapping[bytes, bytes]


class TradesEntry(Struct, frozen=True):
    """The content of an entry of trades.

    Attributes:
        refused: Trades that cannot be stored: those that the producer refused, and those of bad rows whose symbol and
            id can be read.
        bad_rows: Rows that are not valid trades.
    """

    trades: list[HistoricalTrade]
    refused: Sequence[RefusedTrade] = ()
    bad_rows: Sequence[BadRow] = ()


def trades_stream(shard: int, prefix: str = PREFIX) -> str:
    """Name of a shard's stream of trades."""
    return f"{prefix}:trades:{{{shard}}}"


def candles_stream(shard: int, prefix: str = PREFIX) -> str:
    """Name of a shard's stream of the exchange's candles."""
    return f"{prefix}:candles:{{{shard}}}"


def dead_letters_stream(prefix: str = PREFIX) -> str:
    """Name of the stream of dead letters."""
    return f"{prefix}:dead-letters"


def holds_candles(stream: str) -> bool:
    """True for a stream of candles, false for one of trades."""
    return stream.partition("{")[0].endswith(":candles:")


def shard_of(symbol: str, shards: int) -> int:
    """The shard of a symbol: the same in every process and version."""
    # Not CRC32: it is linear, so it would put symbols that differ in a few letters on few shards.
    return int.from_bytes(hashlib.blake2b(symbol.encode(), digest_size=8).digest()) % shards


def encode(
    records: Sequence[HistoricalTrade] | Sequence[HistoricalCandle] | Sequence[msgspec.Raw],
    refused: Sequence[RefusedTrade] = (),
) -> Fields:
    """The fields of one entry."""
    fields: Fields = {VERSION_FIELD: FORMAT_VERSION, DATA_FIELD: _encoder.encode(records)}
    return fields | {REFUSED_FIELD: _encoder.encode(refused)} if refused else fields


def decode_trades(fields: Mapping[bytes, bytes]) -> list[HistoricalTrade]:
    """The trades of one entry.

    Raises:
        MalformedMessage: The entry has another format version, is not MessagePack, or holds a value that is not a
            trade. The error carries the payload.
    """
    payload = _payload(fields)
    try:
        return _checked_trades(payload)
    except _INVALID as error:
        raise MalformedMessage(f"invalid trades: {error}", payload) from error


def decode_trades_entry(fields: Mapping[bytes, bytes]) -> TradesEntry:
    """The trades of one entry, and the rows that are not valid, one by one.

    Raises:
        MalformedMessage: The entry has another format version, is not MessagePack, or none of its rows can be read.
    """
    payload = _payload(fields)
    try:
        refused = _refused_of(fields)
        try:
            return TradesEntry(_checked_trades(payload), refused)
        except _INVALID as error:
            return _row_by_row(_raw_rows.decode(payload), refused, error)
    except _INVALID as error:
        raise MalformedMessage(f"invalid trades: {error}", payload) from error


def _checked_trades(payload: bytes) -> list[HistoricalTrade]:
    trades = [checked_trade(trade) for trade in _trades.decode(payload)]
    for symbol in {trade.symbol for trade in trades}:
        check_symbol(symbol)
    return trades


def _refused_of(fields: Mapping[bytes, bytes]) -> Sequence[RefusedTrade]:
    if REFUSED_FIELD not in fields:
        return ()
    refused = _refused_trades.decode(fields[REFUSED_FIELD])
    for trade in refused:
        check_symbol(trade.symbol)
    return refused


def _row_by_row(rows: Sequence[msgspec.Raw], refused: Sequence[RefusedTrade], error: Exception) -> TradesEntry:
    trades: list[HistoricalTrade] = []
    newly: list[RefusedTrade] = []
    bad: list[BadRow] = []
    for row in rows:
        try:
            trades += _checked_trades(_encoder.encode([row]))
        except _INVALID as problem:
            reason = str(problem) or type(problem).__name__
            bad.append(BadRow(reason, encode([row])))
            if (known := _refused_row(row, reason)) is not None:
                newly.append(known)
    if not trades and (not newly or len(newly) > MOST_REFUSED_ALONE):
        raise error
    return TradesEntry(trades, [*refused, *newly], bad)


def _refused_row(row: msgspec.Raw, reason: str) -> RefusedTrade | None:
    """The trade of a row that is not valid; None if its id or symbol cannot be read."""
    try:
        fields = _any_row.decode(row)
        trade_id, symbol, moment = msgspec.convert(fields[0], TradeId), fields[1], fields[2]
        check_symbol(symbol)
    except (*_INVALID, TypeError, LookupError):
        return None
    is_time = isinstance(moment, datetime) and moment.tzinfo is not None and is_possible_time(moment)
    return RefusedTrade(trade_id, symbol, moment if is_time else None, reason, str(fields))


def decode_candles(fields: Mapping[bytes, bytes]) -> list[HistoricalCandle]:
    """The candles of one entry; errors as :func:`decode_trades`."""
    payload = _payload(fields)
    try:
        candles = [checked_candle(candle) for candle in _candles.decode(payload)]
        for symbol in {candle.symbol for candle in candles}:
            check_symbol(symbol)
    except _INVALID as error:
        raise MalformedMessage(f"invalid candles: {error}", payload) from error
    return candles


def _payload(fields: Mapping[bytes, bytes]) -> bytes:
    payload = fields.get(DATA_FIELD, b"")
    version = fields.get(VERSION_FIELD)
    if version != FORMAT_VERSION:
        raise MalformedMessage(f"expected an entry of format {FORMAT_VERSION!r}, got {version!r}", payload)
    if len(payload) > LARGEST_ENTRY:
        raise MalformedMessage(f"expected an entry of at most {LARGEST_ENTRY} bytes, got {len(payload)}", payload)
    return payload
