"""Settings with which a writer's session ends itself on the server if its client is lost.

A client that is frozen, or behind a network that went silent, leaves a session that holds locks: on the ledger's rows,
for which all other writers wait. The client cannot end it, because it is gone. So the server must.
"""

from collections.abc import Mapping

from kraken_history.database.poolers import NO_DECOMPRESSION_LIMIT, limit_idle

_SILENCE_S = 15  # of the network, until the server's kernel gives a client up
_CHECK_S = 5  # while a statement runs, between two looks whether its client is still connected

OUR_NAME = "kraken-history"
"""Name of a writer's session in ``pg_stat_activity``, unless the URL, the user or the database gives another."""

_NAME_IT = f"""
    SELECT set_config('application_name', '{OUR_NAME}', false) WHERE current_setting('application_name') = ''
"""

_SETTINGS = {
    # A session in the middle of a COPY waits for its client, and is not idle. The kernel's probes end it.
    "tcp_keepalives_idle": str(_SILENCE_S // 3),
    "tcp_keepalives_interval": str(_SILENCE_S // 3),
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": str(1_000 * _SILENCE_S),
}


def settings_of_a_writer(given: Mapping[str, str]) -> str:
    """One query that sets up a session of a writer.

    Args:
        given: Settings that the URL asks for. They are left as they are.
    """
    wanted = [f"SET {name} = {value}" for name, value in _SETTINGS.items() if name not in given]
    if "idle_in_transaction_session_timeout" not in given:
        wanted.append(limit_idle(is_local=False))
    if "client_connection_check_interval" not in given:
        wanted.append(_CHECK_CLIENT)
    return "; ".join([f"SET {NO_DECOMPRESSION_LIMIT}", _NAME_IT, *wanted])


# A server on Windows cannot see that a client has left, and refuses the setting.
_CHECK_CLIENT = f"""
    DO $$ BEGIN
        PERFORM set_config('client_connection_check_interval', '{_CHECK_S}s', false);
    EXCEPTION WHEN invalid_parameter_value THEN NULL;
    END $$
"""
