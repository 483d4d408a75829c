"""How far a standby is behind its primary."""

from kraken_history.database.connections import Connection


async def read_replica_lag(connection: Connection) -> float | None:
    """Seconds by which this server is behind its primary; None if it is a primary.

    0 if it has replayed all that it has received, and is connected to its primary. Otherwise the time since the commit
    of the newest transaction that it has replayed: an upper bound, which also grows while the primary is away, or
    writes nothing. The clocks of the two servers are compared.
    """
    lag: float | None = await connection.fetchval(f"SELECT {REPLICA_LAG}")
    return lag


REPLICA_LAG = """
    CASE
        WHEN NOT pg_is_in_recovery() THEN NULL
        WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
        ELSE greatest(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
    END::float8
"""
