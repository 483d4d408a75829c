"""Opens and finds the rows of ``data_sync_status``, one per symbol and type of data.

While a session holds an old snapshot, as ``pg_dump`` does, PostgreSQL keeps every version of a row that is updated, and
a lookup by the key alone passes through all of them. Writers of trades and candles update their rows in each
transaction. So they let ``generation`` grow every 64 writes, and look for the highest one: at most 64 versions have it.
The SQL function ``newest_generation`` returns it. If its arguments were columns of an updated table, it would be looked
up again for each version of the row.
What they lock is the row's key in ``sync_keys``, which is never updated.
"""

from collections.abc import Sequence

import asyncpg

from kraken_history.database.connections import Connection

ONE_WRITE = "writes = s.writes + 1, generation = (s.writes + 1) >> 6"
"""SQL: what an update of ``data_sync_status AS s`` assigns if it belongs to every write of trades or candles."""


async def open_rows(connection: Connection, symbols: Sequence[str], data_type: str) -> None:
    """Insert the rows that do not exist yet, in a transaction. If another one is inserting one, wait for its end."""
    names = sorted(symbols)
    await connection.execute(_OPEN, names, data_type)
    # Somebody may have deleted a row. Its key is locked, so nobody else puts it back meanwhile.
    await connection.fetch(_LOCK_KEYS, names, data_type)
    if data_type == "trades":
        await connection.execute(_FORGET_RUNS, names)
    await connection.execute(_PUT_BACK, names, data_type)


# In the order of symbols, as writers lock them. The statement that inserts a key inserts its row too.
_OPEN = """
    WITH opened AS (
        INSERT INTO sync_keys (symbol, data_type) SELECT symbol, $2::text FROM unnest($1::text[]) AS symbol
        ON CONFLICT DO NOTHING RETURNING symbol, data_type
    )
    INSERT INTO data_sync_status (symbol, data_type) SELECT symbol, data_type FROM opened
"""

_LOCK_KEYS = "SELECT symbol FROM sync_keys WHERE symbol = ANY ($1) AND data_type = $2 ORDER BY symbol FOR UPDATE"

_IS_LOST = "NOT EXISTS (SELECT FROM data_sync_status s WHERE s.symbol = k.symbol AND s.data_type = k.data_type)"

_FORGET_RUNS = f"""
    DELETE FROM unheld_ids u USING sync_keys k
    WHERE k.symbol = ANY ($1) AND k.data_type = 'trades' AND u.symbol = k.symbol AND {_IS_LOST}
"""  # noqa: S608 — a constant is put in

_PUT_BACK = f"""
    INSERT INTO data_sync_status (symbol, data_type)
    SELECT symbol, data_type FROM sync_keys k WHERE symbol = ANY ($1) AND data_type = $2 AND {_IS_LOST}
"""  # noqa: S608 — a constant is put in


async def update_row(
    connection: asyncpg.Pool | Connection, symbol: str, data_type: str, assignments: str, *values: object
) -> None:
    """Update one row, and insert it first if it does not exist yet.

    Args:
        assignments: SQL for ``SET``. The row is ``s``, and the values are ``$3`` and so on.
    """
    statement = _UPDATE.format(assignments=assignments)
    if not (await connection.execute(statement, symbol, data_type, *values)).endswith(" 0"):
        return
    if isinstance(connection, asyncpg.Pool):
        async with connection.acquire() as acquired:
            await _open_and_update(acquired, symbol, data_type, statement, values)
    else:
        await _open_and_update(connection, symbol, data_type, statement, values)


async def _open_and_update(
    connection: Connection, symbol: str, data_type: str, statement: str, values: Sequence[object]
) -> None:
    async with connection.transaction():
        await open_rows(connection, [symbol], data_type)
        await connection.execute(statement, symbol, data_type, *values)


_UPDATE = """
    UPDATE data_sync_status s SET {assignments}
    WHERE s.symbol = $1 AND s.data_type = $2 AND s.generation = newest_generation($1, $2)
"""


async def lock_keys(connection: Connection, symbols: Sequence[str]) -> None:
    """Lock the ledgers of these symbols, in order, until the end of the transaction.

    The transaction must be READ COMMITTED. Then a later statement reads them as the last writer left them.
    """
    names = sorted(symbols)
    if len(await connection.fetch(_LOCK, names)) < len(names):
        await open_rows(connection, names, "trades")
        await connection.fetch(_LOCK, names)


async def lock_known_key(connection: Connection, symbol: str) -> bool:
    """As :func:`lock_keys` for one symbol; False if it has no ledger, and then none is opened."""
    return bool(await connection.fetch(_LOCK, [symbol]))


# If a symbol is new, none is locked here: a writer that held the others while it opens the new one could deadlock.
_LOCK = """
    SELECT symbol FROM sync_keys
    WHERE data_type = 'trades' AND symbol = ANY ($1) AND cardinality($1) = (
        SELECT count(*) FROM sync_keys WHERE data_type = 'trades' AND symbol = ANY ($1)
    )
    ORDER BY symbol FOR UPDATE
"""
