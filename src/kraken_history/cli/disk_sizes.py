"""How much room the database needs on disk."""

from msgspec import Struct

from kraken_history.database.connections import Connection
from kraken_history.database.migrations import HYPERTABLES, kept_capabilities


class Sizes(Struct, frozen=True):
    """Bytes on disk, with indexes.

    Attributes:
        database: Everything, including longer intervals and the database's own catalogue.
        trades, candles: The two largest tables, with all partitions or chunks, compressed ones as they are.
    """

    database: int
    trades: int
    candles: int


async def fetch_sizes(connection: Connection) -> Sizes:
    """The sizes now."""
    of_table = _HYPERTABLE if HYPERTABLES in await kept_capabilities(connection) else _PARTITIONED
    trades, candles = [await connection.fetchval(of_table, table) for table in ("trades", "candles")]
    database = await connection.fetchval("SELECT pg_database_size(current_database())")
    return Sizes(database, trades, candles)


_HYPERTABLE = "SELECT coalesce(hypertable_size($1::text::regclass), 0)::bigint"

_PARTITIONED = """
    SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree($1::text::regclass)
"""


def readable(size: int) -> str:
    """A size in three digits, such as ``2.98 GB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:,.{digits}f} {unit}"
        value /= 1000
    raise AssertionError
