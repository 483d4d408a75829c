"""Checks that the user of DATABASE_URL has the rights that a service needs, before it does its first work."""

from kraken_history.database.connections import Connection
from kraken_history.errors import UsageError


def wrong_role(reason: str, expected: str) -> UsageError:
    """The error for a URL of the wrong user."""
    return UsageError(f"{reason}: expected DATABASE_URL of {expected} (docs/roles.md)")


async def check_may_store(connection: Connection) -> None:
    """Check the rights of a consumer. The schema must exist.

    Raises:
        UsageError: The user may only read.
    """
    if not await connection.fetchval("SELECT has_table_privilege('trades', 'INSERT')"):
        user = await connection.fetchval("SELECT current_user")
        raise wrong_role(f"user {user} may not store trades", "a user in kraken_writer, or of the owner")


async def check_is_owner(connection: Connection) -> None:
    """Check the rights of a worker. The schema must exist.

    Raises:
        UsageError: The user does not own the tables, so that it can neither refresh longer intervals nor drop old data.
    """
    row = await connection.fetchrow(
        """
        SELECT pg_has_role(relowner, 'MEMBER') AS is_owner, relowner::regrole::text AS owner, current_user::text AS me
        FROM pg_class WHERE oid = 'trades'::regclass
        """
    )
    assert row is not None
    if not row["is_owner"]:
        raise wrong_role(f"user {row['me']} does not own the tables", f"their owner, {row['owner']}")
