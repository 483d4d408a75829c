"""Any name of a symbol, in every read.

The database knows a symbol under one name. A name that is written as our symbols are is read at once, so that it costs
nothing to be asked for by it; only where nothing is stored of it, as with any other name, the stored symbols are looked
through. Nothing is kept of that: a symbol that is stored later may be the one that is meant.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from kraken_history.database.stored_symbols import fetch_stored_symbols
from kraken_history.errors import UnknownSymbol
from kraken_history.kraken.pairs import checked_name, find_stored, is_ours
from kraken_history.reading.database import Database

P = ParamSpec("P")
R = TypeVar("R")


async def read_symbols(database: Database) -> list[str]:
    """The symbols of which something is stored, in alphabetical order."""
    async with database.connection() as connection:
        return await fetch_stored_symbols(connection)


async def read_symbol(database: Database, name: str) -> str:
    """The stored symbol that a name means.

    Raises:
        UnknownSymbol: Nothing is stored under this name; or the name may mean several symbols, or is none.
    """
    return find_stored(checked_name(name), await read_symbols(database))


def by_any_name(
    read: Callable[Concatenate[Database, str, P], Awaitable[R]],
) -> Callable[Concatenate[Database, str, P], Awaitable[R]]:
    """Let a read of one symbol, which raises UnknownSymbol where nothing of it is stored, take any name of it.

    The read itself must call functions that take the symbol alone: one that takes any name would answer it in place
    of saying that nothing is stored of it.
    """

    @wraps(read)
    async def read_by_name(database: Database, symbol: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        name = checked_name(symbol)
        if not is_ours(name):
            return await read(database, await read_symbol(database, name), *args, **kwargs)
        try:
            return await read(database, name, *args, **kwargs)
        except UnknownSymbol as error:
            stored = error.known
        return await read(database, find_stored(name, stored), *args, **kwargs)

    return read_by_name
