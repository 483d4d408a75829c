"""What reads bytes of others, each as a function that raises nothing but the errors that it documents."""

import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kraken_history.cli.instants import parse_instant
from kraken_history.csv_import import found_files
from kraken_history.csv_import.cryptodatadownload import TurnedFile, is_of_the_site, turned
from kraken_history.csv_import.extent import find_extent, reader_of
from kraken_history.csv_import.names import Content, content_of
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import CsvFile
from kraken_history.database.urls import read_database_url
from kraken_history.errors import KrakenError, MalformedMessage, UnknownSymbol, UsageError
from kraken_history.indicators import decode_btc_dominance, decode_fear_greed
from kraken_history.intervals import parse_interval
from kraken_history.kraken.pairs import symbol_without_kraken
from kraken_history.kraken.rest import (
    decode_asset_pairs,
    decode_ohlc_page,
    decode_result,
    decode_system_status,
    decode_time,
    decode_trades_page,
    refusal_of,
)
from kraken_history.kraken.websocket import decode_frame
from kraken_history.runtime.redis_urls import read_redis_url
from kraken_history.runtime.signs import decode_sign
from kraken_history.stream import wire
from kraken_history.urls import InvalidUrl

NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


class Target(msgspec.Struct, frozen=True):
    """A function that reads bytes of others.

    Attributes:
        read: Reads them.
        refusals: The exceptions with which it may refuse them.
    """

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]


def _entry(data: bytes) -> Mapping[bytes, bytes]:
    """An entry of a stream: the data, and behind a NUL byte the refused trades."""
    body, nul, refused = data.partition(b"\x00refused\x00")
    fields = {wire.VERSION_FIELD: wire.FORMAT_VERSION, wire.DATA_FIELD: body}
    return {**fields, wire.REFUSED_FIELD: refused} if nul else fields


def _page(decode: Callable[[msgspec.Raw], object]) -> Callable[[bytes], object]:
    return lambda body: decode(decode_result(200, body))


def _refusal(body: bytes) -> None:
    header, _, errors = body.decode("latin-1").partition("\n")
    refusal_of(errors.split("\n"), status=429, retry_after=header, now=NOW)


def _csv(name: str) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            with found_files([path]) as (files, refused):
                for error in refused:
                    raise error
                for file in files:
                    _read_file(file)

    return read


def _read_file(file: CsvFile) -> None:
    if is_of_the_site(file):
        foreign = turned(file, any_pair=True)
        _read_series(foreign, foreign.content)
    else:
        _read_series(file, content_of(file.name, any_pair=True))


def _read_series(series: CsvFile | TurnedFile, content: Content) -> None:
    find_extent(series, content)
    reader = reader_of(series, content)
    for block in series.blocks():
        reader.read(block)
    reader.finish()


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


_REST = (KrakenError, MalformedMessage)

TARGETS: Mapping[str, Target] = {
    "frame": Target(decode_frame, (MalformedMessage,)),
    "trades-page": Target(_page(lambda result: decode_trades_page(result, "BTC/USD", since=0)), _REST),
    "ohlc-page": Target(_page(lambda result: decode_ohlc_page(result, "BTC/USD")), _REST),
    "asset-pairs": Target(_page(decode_asset_pairs), _REST),
    "system-status": Target(_page(decode_system_status), _REST),
    "time": Target(_page(decode_time), _REST),
    "refusal": Target(_refusal, ()),
    "trades-entry": Target(lambda data: wire.decode_trades_entry(_entry(data)), (MalformedMessage,)),
    "candles-entry": Target(lambda data: wire.decode_candles(_entry(data)), (MalformedMessage,)),
    "sign-of-life": Target(lambda body: decode_sign("producer:one", body), ()),
    "fear-and-greed": Target(decode_fear_greed, (MalformedMessage,)),
    "btc-dominance": Target(decode_btc_dominance, (MalformedMessage,)),
    "csv-candles": Target(_csv("XBTUSD_1.csv"), (CsvError,)),
    "csv-trades": Target(_csv("XBTUSD.csv"), (CsvError,)),
    "csv-zip": Target(_csv("archive.zip"), (CsvError,)),
    "csv-site": Target(_csv("Kraken_BTCUSD_d.csv"), (CsvError,)),
    "interval": Target(_text(parse_interval), (UsageError,)),
    "instant": Target(_text(parse_instant), (ValueError,)),
    "symbol": Target(_text(symbol_without_kraken), (UnknownSymbol,)),
    "database-url": Target(_text(read_database_url), (InvalidUrl,)),
    "redis-url": Target(_text(read_redis_url), (InvalidUrl,)),
}
