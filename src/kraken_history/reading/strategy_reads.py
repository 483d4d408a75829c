"""Lists of candles as a strategy asks for them, each with its choice of ``gaps``."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from kraken_history.intervals import (
    LATEST,
    Span,
    as_utc,
    bucket_start,
    checked_interval,
    closed_window,
    width_of,
)
from kraken_history.reading.candles import (
    checked_count,
    checked_limit,
    read_latest_of,
    read_span,
    require_symbol,
)
from kraken_history.reading.database import Database
from kraken_history.reading.gaps import GapsChoice, checked_gaps
from kraken_history.reading.live_edge import GRACE
from kraken_history.reading.missing import require_complete, require_kept
from kraken_history.reading.names import by_any_name
from kraken_history.reading.padding import read_last_close, read_padded
from kraken_history.reading.settling import Timing, read_settled
from kraken_history.records import HistoricalCandle

_DEFAULT = Timing()
_BEGINNING = as_utc(datetime.min.replace(tzinfo=UTC))


@by_any_name
async def read_candles_over_gaps(
    database: Database,
    symbol: str,
    interval: int,
    start: datetime,
    end: datetime,
    limit: int | None = None,
    *,
    gaps: GapsChoice,
) -> list[HistoricalCandle]:
    """:func:`~kraken_history.reading.candles.read_candles`, which raises or pads if data is missing.

    With ``pad`` there is a candle for every bucket of the range from the first known close on, up to the last bucket
    that is closed by the database's clock, and at most ``limit`` candles.

    Raises:
        CoverageError: With ``raise``, part of the requested buckets is missing. With ``limit``, only buckets up to
            the last candle to be returned count.
        InvalidChoice: ``gaps`` is not a choice.
    """
    gaps = checked_gaps(gaps)
    window = closed_window(start, end, interval)
    return await _read_window(database, symbol, checked_interval(interval), window, checked_limit(limit), gaps)


@by_any_name
async def read_lookback(
    database: Database, symbol: str, interval: int, end: datetime, lookback: int, gaps: GapsChoice
) -> list[HistoricalCandle]:
    """Candles of the last ``lookback`` buckets that are closed at ``end``, oldest first.

    Quiet buckets have none, unless they are padded.
    """
    interval, lookback, gaps = checked_interval(interval), checked_count("lookback", lookback), checked_gaps(gaps)
    window = _window_before(bucket_start(as_utc(end), width_of(interval)), lookback, width_of(interval))
    return await _read_window(database, symbol, interval, window, None, gaps)


def _window_before(end: datetime, buckets: int, width: timedelta) -> Span:
    """At most so many buckets before ``end``."""
    return end - max(0, min(buckets, (end - _BEGINNING) // width)) * width, end


async def _read_window(
    database: Database, symbol: str, interval: int, window: Span, limit: int | None, gaps: GapsChoice
) -> list[HistoricalCandle]:
    candles: list[HistoricalCandle] = []
    if window[0] < window[1]:
        match gaps:
            case "raise":
                candles = await _read_or_raise(database, symbol, interval, window, limit)
            case "pad":
                candles = await read_padded(database, symbol, interval, window, limit)
            case _:
                candles = await read_span(database, symbol, interval, window, limit)
    if not candles:
        await require_symbol(database, symbol)
    return candles


async def _read_or_raise(
    database: Database, symbol: str, interval: int, window: Span, limit: int | None
) -> list[HistoricalCandle]:
    start, reach = window
    width = width_of(interval)
    if limit is not None:
        candles = await read_span(database, symbol, interval, window, limit)
        reach = candles[-1].timestamp + width if len(candles) == limit else reach
    reach = bucket_start(await require_complete(database, symbol, (start, reach), interval=interval), width)
    if reach <= start:
        return []
    candles = await read_span(database, symbol, interval, (start, reach), limit)
    await require_kept(database, symbol, (start, reach), interval=interval)
    return candles


@by_any_name
async def read_latest_over_gaps(
    database: Database, symbol: str, interval: int, count: int, end: datetime | None, gaps: GapsChoice
) -> list[HistoricalCandle]:
    """The newest ``count`` candles, oldest first, which raises or pads if data is missing.

    With ``raise`` the candles are those that are settled, and the time from the first of them on is complete. With
    ``pad`` they are those of the newest ``count`` buckets.
    """
    gaps = checked_gaps(gaps)
    return await _read_latest(
        database, symbol, checked_interval(interval), checked_count("count", count), end, gaps, GRACE
    )


@by_any_name
async def read_warmup(
    database: Database,
    symbol: str,
    interval: int,
    periods: int,
    end: datetime | None,
    gaps: GapsChoice,
    timing: Timing = _DEFAULT,
) -> list[HistoricalCandle]:
    """The newest ``periods`` candles that a follower would not wait for, oldest first.

    Args:
        end: Return the newest candles that are closed at this time instead, without look-ahead.
    """
    interval, periods, gaps = checked_interval(interval), checked_count("periods", periods), checked_gaps(gaps)
    width, grace = width_of(interval), timedelta(seconds=timing.grace_s)
    if end is not None:
        return await _read_latest(database, symbol, interval, periods, end, gaps, grace)
    [settled] = await read_settled(database, {symbol: None}, width, timing)
    if settled.until is None:
        await require_symbol(database, symbol)
        return []
    closes = bucket_start(settled.until, width)
    if gaps == "pad":
        return await read_padded(database, symbol, interval, _window_before(closes, periods, width))
    return await _read_latest(database, symbol, interval, periods, closes, gaps, grace)


async def _read_latest(
    database: Database,
    symbol: str,
    interval: int,
    count: int,
    end: datetime | None,
    gaps: GapsChoice,
    grace: timedelta,
) -> list[HistoricalCandle]:
    match gaps:
        case "raise":
            stop = bucket_start(LATEST if end is None else as_utc(end), width_of(interval))
            return await _read_latest_or_raise(database, symbol, interval, count, stop, grace)
        case "pad":
            return await _read_latest_padded(database, symbol, interval, count, end)
        case _:
            return await read_latest_of(database, symbol, interval, count, end)


async def _read_latest_or_raise(
    database: Database, symbol: str, interval: int, count: int, stop: datetime, grace: timedelta
) -> list[HistoricalCandle]:
    """Candles that begin no earlier than the time that was checked before they were read."""
    checked: datetime | None = None
    while True:
        found = await read_latest_of(database, symbol, interval, count, stop)
        if not found:
            return found
        if checked is not None and checked <= found[0].timestamp:
            await require_kept(database, symbol, (checked, stop), interval=interval)
            return found
        checked = found[0].timestamp
        complete_until = await require_complete(database, symbol, (checked, stop), interval=interval, grace=grace)
        stop = bucket_start(complete_until, width_of(interval))


async def _read_latest_padded(
    database: Database, symbol: str, interval: int, count: int, end: datetime | None
) -> list[HistoricalCandle]:
    width = width_of(interval)
    newest: Sequence[HistoricalCandle] = await read_latest_of(database, symbol, interval, 1, end)
    if not newest:
        return []
    closes = await read_last_close(database, interval)
    if end is not None:
        closes = min(closes, bucket_start(as_utc(end), width))
    return await read_padded(
        database, symbol, interval, _window_before(max(closes, newest[0].timestamp + width), count, width)
    )
