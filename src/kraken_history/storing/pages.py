"""Stores one page of REST Trades, and further writes of the caller in the same transactions."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby

from msgspec import Struct
from msgspec.structs import replace

from kraken_history.database.connections import Connection, write_again
from kraken_history.database.failures import DATA_ERRORS
from kraken_history.records import HistoricalTrade, RefusedTrade
from kraken_history.storing.sifting import sift
from kraken_history.storing.store import Store, Stored, write_within
from kraken_history.storing.widths import MOST_DAYS


class Part(Struct, frozen=True):
    """The trades of a page that are written in one transaction; none of them if the page is empty.

    Attributes:
        is_last: True if the page has no further part.
        refused: Refused trades to be recorded with the part; the first part has those of the whole page.
    """

    trades: Sequence[HistoricalTrade]
    is_last: bool
    refused: Sequence[RefusedTrade] = ()

    @property
    def newest(self) -> datetime | None:
        """Time of the last trade, which is the newest because a page is in order of time; None if the part is empty."""
        return self.trades[-1].timestamp if self.trades else None


class StoredPage(Stored, frozen=True, kw_only=True):
    """The sums over the written parts of a page; ``holes`` are those of the last part with a new trade.

    Attributes:
        parts: Number of parts that were written; 0 if the caller's hook refused the first one.
        is_stopped: True if one of the caller's hooks returned False.
    """

    parts: int
    is_stopped: bool


class Alongside:
    """Hooks into the transactions of :func:`write_page`. By default they do nothing; override either.

    If the transaction is rolled back and repeated, both hooks are called again. Therefore they must change only the
    database, or state that the next call overwrites.
    """

    async def before(self, connection: Connection) -> bool:
        """Lock and check before a part is written. If this returns False, neither it nor a later part is written."""
        return True

    async def after(self, connection: Connection, part: Part, stored: Stored) -> bool:
        """Write further rows with a part. If this returns False, the part is committed, but no later part is written.

        Args:
            stored: Counts of this part.
        """
        return True


NOTHING_MORE = Alongside()


async def write_page(
    store: Store,
    trades: Sequence[HistoricalTrade],
    *,
    refused: Sequence[RefusedTrade] = (),
    also: Alongside = NOTHING_MORE,
) -> StoredPage:
    """Store a page's trades, in one transaction or, if they span months, in one per part.

    A part is written again if it lost a deadlock, or if its partition was dropped meanwhile. If the database refuses a
    part, the rows that it refuses are recorded as refused, and the others are stored.

    Args:
        trades: In order of time. If there are none, the hooks are called once, with an empty part.
        refused: Refused trades of the page.
        also: Hooks that are called in each of the transactions.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: As the driver raises them. Earlier parts are committed.
    """
    written: list[Stored] = []
    for part in _parts(trades, refused):
        stored, goes_on = await _write_part(store, part, also)
        if stored is not None:
            written.append(stored)
        if not goes_on:
            return _sum(written, is_stopped=True)
    return _sum(written, is_stopped=False)


async def _write_part(store: Store, part: Part, also: Alongside) -> tuple[Stored | None, bool]:
    try:
        return await write_again(partial(store.transact, part.trades, (), partial(_write, part, also)))
    except DATA_ERRORS:
        sifted = await sift(store, part.trades)
        if sifted.proves_nothing:
            raise
        rest = replace(part, trades=sifted.trades, refused=[*part.refused, *sifted.refused])
        return await write_again(partial(store.transact, rest.trades, (), partial(_write, rest, also)))


async def _write(part: Part, also: Alongside, connection: Connection) -> tuple[Stored | None, bool]:
    if not await also.before(connection):
        return None, False
    stored = await write_within(connection, part.trades, (), candle_source="ohlc", refused=part.refused)
    return stored, await also.after(connection, part, stored)


def _sum(written: Sequence[Stored], *, is_stopped: bool) -> StoredPage:
    return StoredPage(
        sum(each.new_trades for each in written),
        sum(each.known_trades for each in written),
        sum(each.new_candles for each in written),
        # Only a write with a new trade reports holes.
        next((each.holes for each in reversed(written) if each.new_trades), {}),
        [trade for each in written for trade in each.refused],
        [trade for each in written for trade in each.reused],
        parts=len(written),
        is_stopped=is_stopped,
    )


def _parts(trades: Sequence[HistoricalTrade], refused: Sequence[RefusedTrade]) -> list[Part]:
    *earlier, last = parts_of(trades) or [()]
    first, *others = [*(Part(each, is_last=False) for each in earlier), Part(last, is_last=True)]
    return [replace(first, refused=refused), *others]


def parts_of(trades: Sequence[HistoricalTrade]) -> list[Sequence[HistoricalTrade]]:
    """Divide a page's trades into parts to be stored one by one, in order; one part unless they span months.

    A page of a rarely traded pair spans years, and each day has its own partition or chunk. All of them in one
    transaction would need more locks than a server has.
    """
    parts: list[Sequence[HistoricalTrade]] = []
    for _, group in groupby(enumerate(_days_before(trades)), key=lambda at_days: at_days[1] // MOST_DAYS):
        places = [at for at, _ in group]
        parts.append(trades[places[0] : places[-1] + 1])
    return parts


def _days_before(trades: Sequence[HistoricalTrade]) -> Iterator[int]:
    """For each trade, the number of changes of the day before it."""
    changes = 0
    for before, trade in zip([*trades[:1], *trades], trades, strict=False):
        changes += before.timestamp.date() != trade.timestamp.date()
        yield changes
