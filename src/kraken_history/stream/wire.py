"""The format of the streams in Redis: names of streams and groups, and the encoding of entries.

An entry holds the trades (or the running candles) of one symbol and one micro-batch, in MessagePack under
``d``, with the version of this format under ``v``. Streams are sharded by symbol; because of the braces, a
Redis Cluster keeps the streams of a shard in one slot.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.numbers import check_candle, check_symbol, check_trade
from kraken_history.records import HistoricalCandle, HistoricalTrade

FORMAT_VERSION = b"1"
VERSION_FIELD = b"v"
DATA_FIELD = b"d"

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


def encode(records: Sequence[HistoricalTrade] | Sequence[HistoricalCandle]) -> Fields:
    """The fields of one entry."""
    return {VERSION_FIELD: FORMAT_VERSION, DATA_FIELD: _encoder.encode(records)}


def decode_trades(fields: Mapping[bytes, bytes]) -> list[HistoricalTrade]:
    """The trades of one entry.

    Raises:
        MalformedMessage: The entry has another format version, is not MessagePack, or holds a value that is not a
            trade. The error carries the payload.
    """
    payload = _payload(fields)
    try:
        trades = _trades.decode(payload)
        for trade in trades:
            check_trade(trade)
        for symbol in {trade.symbol for trade in trades}:
            check_symbol(symbol)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"invalid trades: {error}", payload) from error
    return trades


def decode_candles(fields: Mapping[bytes, bytes]) -> list[HistoricalCandle]:
    """The candles of one entry; errors as :func:`decode_trades`."""
    payload = _payload(fields)
    try:
        candles = _candles.decode(payload)
        for candle in candles:
            check_symbol(candle.symbol)
            check_candle(candle)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"invalid candles: {error}", payload) from error
    return candles


def _payload(fields: Mapping[bytes, bytes]) -> bytes:
    payload = fields.get(DATA_FIELD, b"")
    version = fields.get(VERSION_FIELD)
    if version != FORMAT_VERSION:
        raise MalformedMessage(f"expected an entry of format {FORMAT_VERSION!r}, got {version!r}", payload)
    return payload
