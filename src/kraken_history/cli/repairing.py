"""The order in which ``verify --repair`` repairs what a verification found."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from kraken_history.intervals import bucket_start
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.reading.verification import Verification, verify_longer
from kraken_history.records import MINUTE, TimeRange
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.longer_intervals import AGGREGATES, Aggregate
from kraken_history.storing.map_building import remove_wrong_maps
from kraken_history.storing.repair import (
    are_trades_stored,
    correct_ledger,
    join_ledger,
    rebuild_minutes,
    remove_repeated,
    replace_longer,
)

_DAY = timedelta(days=1)
_WAIT_S = 600.0  # how long to wait for a refresh by the worker to end


class Repaired(Struct, frozen=True):
    """What a repair changed.

    Attributes:
        removed_trades: Second rows of a trade that were deleted.
        joined_trades: Stored trades whose ids joined the ledger.
        missing_trades: Ids without a row, which are missing now, so that they are fetched again.
        rebuilt_candles: One-minute candles that were built from their trades, or deleted because they have none.
        rebuilt_longer: Windows of longer candles that were computed from their minutes.
        left_trades: Ids without a row that were left, because on their day no trade of any symbol is stored.
    """

    removed_trades: int
    joined_trades: int
    missing_trades: int
    rebuilt_candles: int
    rebuilt_longer: int
    left_trades: int

    def lines(self) -> Iterator[str]:
        """In words."""
        yield f"{self.rebuilt_candles:,} one-minute candles, and {self.rebuilt_longer:,} ranges of longer ones"
        if self.removed_trades:
            yield f"{self.removed_trades:,} second rows of trades deleted, the first stored ones kept"
        if self.joined_trades:
            yield f"{self.joined_trades:,} stored trades entered into the ledger"
        if self.missing_trades:
            trades = f"{self.missing_trades:,} trades without a row"
            yield f"{trades} are missing again: `kraken-history fill-gaps` fetches them"
        if self.left_trades:
            yield (
                f"nothing of {self.left_trades:,} trades: whole days are gone, as if they were dropped;"
                " docs/verifying.md shows how to record that"
            )


async def repair(
    pool: asyncpg.Pool,
    found: Verification,
    symbols: Sequence[str] | None,
    start: datetime | None,
    end: datetime | None,
) -> Repaired:
    """Repair what was found: trades, then their candles, the ledger, and the longer candles.

    Args:
        symbols, start, end: As they were verified.

    Raises:
        RefreshIsRunning: A refresh of the longer intervals did not end in time.
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them. What was repaired stays so.
    """
    removed = rebuilt = missing = 0
    left: dict[str, list[TimeRange]] = {}
    await _remove_wrong_maps(pool, found)
    for symbol in sorted({each.symbol for each in found.differences if not each.what.startswith(("longer", "map"))}):
        its = [each for each in found.differences if each.symbol == symbol]
        times: list[datetime] = []
        if symbol in found.repeated:
            times = await remove_repeated(pool, symbol, found.repeated[symbol])
            removed += len(times)
        if symbol in found.strays:
            await join_ledger(pool, symbol, found.strays[symbol])
        windows = [TimeRange(each.start, each.end) for each in its if each.what in _OF_MINUTES]
        for day in _days([*windows, *(TimeRange(at, at + MINUTE) for at in times)]):
            rebuilt += await rebuild_minutes(pool, symbol, day)
        lost, times_of_lost, left[symbol] = await _lost_of(pool, found, symbol)
        missing += len(lost)
        await correct_ledger(pool, symbol, lost, times_of_lost, left[symbol])
    await refresh(pool, wait_s=_WAIT_S)
    longer = await _repair_longer(pool, symbols, start, end, left)
    return Repaired(removed, _count(found.strays), missing, rebuilt, longer, _count(found.lost) - missing)


async def _remove_wrong_maps(pool: asyncpg.Pool, found: Verification) -> None:
    """Delete the maps that differ. The worker makes them again; until then, coverage reads the candles."""
    wrong: dict[str, list[TimeRange]] = {}
    for each in found.differences:
        if each.what == "map_differs":
            wrong.setdefault(each.symbol, []).append(TimeRange(each.start, each.end))
    for symbol, windows in wrong.items():
        await remove_wrong_maps(pool, symbol, [day.start for day in _days(windows)])


async def _lost_of(
    pool: asyncpg.Pool, found: Verification, symbol: str
) -> tuple[IdRanges, list[TimeRange], list[TimeRange]]:
    """The lost ids that may be fetched again, their times, and the times of the others.

    If all trades of a day are gone, they were probably dropped. The candles of that day contain them. If they were
    fetched again, they would be added to these candles a second time.
    """
    lost: list[IdRange] = []
    times: list[TimeRange] = []
    left: list[TimeRange] = []
    for low, high in found.lost.get(symbol, ()):
        span = found.lost_times.get((symbol, low))
        if span is None:
            continue
        window = TimeRange(*span)
        if await are_trades_stored(pool, window):
            lost.append((low, high))
            times.append(window)
        else:
            left.append(window)
    return IdRanges(lost), times, left


_OF_MINUTES = (
    "trade_repeated", "trade_not_in_ledger",
    "candle_differs", "candle_missing", "candle_without_trades", "candle_outranked",
)  # fmt: skip
"""The kinds whose minutes are built again. The others are about the ledger, or occur beside one of these."""


def _days(windows: Sequence[TimeRange]) -> list[TimeRange]:
    """The days that the windows touch, each once."""
    starts: set[datetime] = set()
    for window in windows:
        day = bucket_start(window.start, _DAY)
        while day < window.end:
            starts.add(day)
            day += _DAY
    return [TimeRange(day, day + _DAY) for day in sorted(starts)]


async def _repair_longer(
    pool: asyncpg.Pool,
    symbols: Sequence[str] | None,
    start: datetime | None,
    end: datetime | None,
    kept: Mapping[str, Sequence[TimeRange]],
) -> int:
    """Replace the longer candles that still differ: a refresh never replaces one that has more trades."""
    async with pool.acquire() as connection:
        found = await verify_longer(connection, symbols, start, end)
    wrong: list[tuple[Aggregate, str, TimeRange]] = [
        (aggregate, symbol, window)
        for aggregate in AGGREGATES  # each after its source
        for (view, symbol), windows in found.wrong_longer.items()
        if view == aggregate.view
        for window in windows
    ]
    if wrong:
        await replace_longer(pool, wrong, kept, wait_s=_WAIT_S)
    return len(wrong)


def _count(ids: Mapping[str, IdRanges]) -> int:
    return sum(map(len, ids.values()))
