"""Finds the trades of a batch that the database refuses, so that each takes only itself."""

from collections.abc import Sequence
from functools import partial

import asyncpg
from msgspec import Struct

from kraken_history.database.connections import Connection, write_again
from kraken_history.records import HistoricalTrade, RefusedTrade
from kraken_history.storing.store import Store, copy_new_trades

DATA_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    OverflowError,
)
"""Errors about data that the database will never accept, as opposed to a bug or an outage."""

_MOST_REFUSED_ALONE = 10  # if it refuses more trades, and accepts none, the trades are not at fault


class Sifted(Struct, frozen=True):
    """The trades of a batch that the database accepts, and those that it refuses, each with its error."""

    trades: Sequence[HistoricalTrade]
    rejects: Sequence[tuple[HistoricalTrade, str]]

    @property
    def refused(self) -> list[RefusedTrade]:
        """The trades that the database refuses."""
        return [RefusedTrade(each.id, each.symbol, each.timestamp, why, str(each)) for each, why in self.rejects]

    @property
    def proves_nothing(self) -> bool:
        """True if no trade fails alone, or if so many and only such do that the trades are not at fault."""
        return not self.rejects or (not self.trades and len(self.rejects) > _MOST_REFUSED_ALONE)


class _RolledBack(Exception):
    """Ends a trial."""


async def sift(store: Store, trades: Sequence[HistoricalTrade]) -> Sifted:
    """Halve a batch until each trade that the database refuses is alone. Nothing is stored: each trial is rolled back.

    Only the copying of trades is tried. If a candle or the ledger is refused, the trades are not at fault.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: Other errors, as the driver raises them.
    """
    try:
        await write_again(partial(_try, store, trades))
    except DATA_ERRORS as error:
        if len(trades) <= 1:
            return Sifted(
                [], [(trade, f"the database refuses it: {type(error).__name__}: {error}") for trade in trades]
            )
        half = len(trades) // 2
        one, other = await sift(store, trades[:half]), await sift(store, trades[half:])
        return Sifted([*one.trades, *other.trades], [*one.rejects, *other.rejects])
    return Sifted(trades, [])


async def _try(store: Store, trades: Sequence[HistoricalTrade]) -> None:
    async def write(connection: Connection) -> None:
        await copy_new_trades(connection, trades)
        raise _RolledBack

    try:
        await store.transact(trades, (), write)
    except _RolledBack:
        return
