"""Finds the trades of a batch that the database refuses, so that each takes only itself."""

from collections.abc import Sequence
from functools import partial

from msgspec import Struct

from kraken_history.database.connections import Connection, write_again
from kraken_history.database.failures import DATA_ERRORS
from kraken_history.records import HistoricalTrade, RefusedTrade
from kraken_history.storing.store import Store, copy_new_trades
from kraken_history.storing.widths import by_days

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

    Only the copying of trades is tried. If a candle or the ledger is refused, the trades are not at fault. Trades of
    many days are tried in parts, as they are stored.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: Other errors, as the driver raises them.
    """
    parts = [part.trades for part in by_days(trades, ())]
    found = [await _sift(store, part) for part in parts]
    return Sifted(
        [trade for each in found for trade in each.trades], [reject for each in found for reject in each.rejects]
    )


async def _sift(store: Store, trades: Sequence[HistoricalTrade]) -> Sifted:
    try:
        await write_again(partial(_try, store, trades))
    except DATA_ERRORS as error:
        if len(trades) <= 1:
            return Sifted(
                [], [(trade, f"the database refuses it: {type(error).__name__}: {error}") for trade in trades]
            )
        half = len(trades) // 2
        one, other = await _sift(store, trades[:half]), await _sift(store, trades[half:])
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
