"""Files of hours, days and other intervals above a minute: their candles have no minutes below them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

import asyncpg

from kraken_history.clock import utc_now
from kraken_history.completeness.longer_cover import LONGER
from kraken_history.csv_import.cryptodatadownload import TurnedFile, pair_of
from kraken_history.csv_import.extent import Extent, instant
from kraken_history.csv_import.names import Content, content_of
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import CsvFile
from kraken_history.csv_import.writing import FileReading, OnProgress, Written
from kraken_history.records import HistoricalCandle, TimeRange
from kraken_history.storing.candle_text import Candles
from kraken_history.storing.longer_candles import store_longer_candles


def is_longer(content: Content) -> bool:
    """True if the candles of a file are kept as candles without minutes."""
    return content.interval_minutes in LONGER


def pairs_with_minutes(files: Iterable[CsvFile]) -> frozenset[str]:
    """The pairs, in upper case, of which one-minute candles or trades are among the files."""
    pairs = set()
    for file in files:
        try:
            content = content_of(file.name, any_pair=True)
        except CsvError:
            continue  # it will be refused when its turn comes
        if content.interval_minutes in (None, 1) and pair_of(file.name) is None:
            pairs.add(content.pair.upper())
    return frozenset(pairs)


async def write_longer(
    pool: asyncpg.Pool,
    file: CsvFile | TurnedFile,
    content: Content,
    symbol: str,
    extent: Extent,
    told: OnProgress,
) -> Written:
    """Store the candles of a file block by block, with the time that they prove. A repeated import changes nothing.

    A candle that has not ended yet is left out: the file was downloaded while it was running.

    Raises:
        CsvError: A line is not valid; the blocks before it are stored.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them.
    """
    interval = content.interval_minutes or 1
    width, now = timedelta(minutes=interval), utc_now()
    reading = FileReading(file, content, extent, told)
    covered_to, candles, new, replaced = extent.first, 0, 0, 0
    async for block in reading.blocks():
        records = [each for each in records_of(symbol, interval, block) if each.timestamp + width <= now]
        if not records:
            continue
        until = records[-1].timestamp + width
        stored = await store_longer_candles(
            pool, symbol, interval, records, "csv", covered=[TimeRange(covered_to, until)]
        )
        covered_to = until
        candles, new, replaced = candles + len(records), new + stored.new, replaced + stored.replaced
    end = extent.last + width
    if covered_to < end <= now:  # the file ends with quiet candles
        await store_longer_candles(pool, symbol, interval, [], "csv", covered=[TimeRange(covered_to, end)])
    return Written(reading.rows, candles, new, replaced)


def records_of(symbol: str, interval: int, block: Candles) -> list[HistoricalCandle]:
    """The candles of a block as records."""
    b = block
    columns = (b.opens, b.highs, b.lows, b.closes, b.volumes, b.quote_volumes, b.trade_counts, b.vwaps)
    return [_record(symbol, instant(time), interval, *texts) for time, *texts in zip(b.times, *columns, strict=True)]


def _record(symbol: str, timestamp: datetime, interval: int, *texts: str) -> HistoricalCandle:
    open_, high, low, close, volume, quote_volume, trade_count, vwap = texts
    return HistoricalCandle(
        symbol, timestamp, interval, Decimal(open_), Decimal(high), Decimal(low), Decimal(close), Decimal(volume),
        Decimal(quote_volume), int(trade_count), Decimal(vwap), "csv",
    )  # fmt: skip
