"""The line which says that a command read from a standby."""


def replica_line(lag_s: float) -> str:
    """The line for a standby, with the seconds by which it is behind its primary."""
    return f"the database is a standby, {lag_s:.1f} s behind its primary"
