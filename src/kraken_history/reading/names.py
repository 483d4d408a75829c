"""Any name of a symbol, in every read.

The database stores each symbol under one name. If a name has the form of that one, it is read directly, without a
look-up. If nothing is stored under it, or if it has another form, the list of stored symbols is searched. The result
is not cached: a symbol that is stored later may be the one that the name means.
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
    """The symbols that have stored data, in alphabetical order."""
    async with database.connection() as connection:
        return await fetch_stored_symbols(connection)


async def read_symbol(database: Database, name: str) -> str:
    """The stored symbol that a name means.

    Raises:
        UnknownSymbol: Nothing is stored under this name, the name may mean several symbols, or it is not a valid name.
    """
    return find_stored(checked_name(name), await read_symbols(database))


def by_any_name(
    read: Callable[Concatenate[Database, str, P], Awaitable[R]],
) -> Callable[Concatenate[Database, str, P], Awaitable[R]]:
    """Let a read of one symbol accept any of its names. The read must raise UnknownSymbol if nothing is stored for it.

    The read itself must call functions that accept the stored name only. A function that accepts any name would resolve
    it instead of raising UnknownSymbol.
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
