"""What ADBC's drivers say and do beyond their documentation, and ``reading.arrow_stream`` leans on."""

import adbc_driver_manager
import adbc_driver_postgresql  # type: ignore[import-untyped]  # it has no stubs
import pytest

from kraken_history.database.urls import read_database_url
from kraken_history.embedded.process import free_port

plain_only = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def test_a_server_that_is_not_there_is_an_operational_error_with_libpqs_words() -> None:
    """``reading.arrow_stream`` cuts the prefix off, and takes an error without a SQLSTATE for an outage."""
    url = f"postgresql://a@127.0.0.1:{free_port()}/x"

    with (
        pytest.raises(adbc_driver_manager.OperationalError) as caught,
        adbc_driver_postgresql.connect(url) as database,
        adbc_driver_manager.AdbcConnection(database),
    ):
        pass

    assert str(caught.value).startswith("IO: [libpq] ")
    assert getattr(caught.value, "sqlstate", None) is None


@plain_only
def test_a_refused_statement_has_its_sqlstate(migrated_database_url: str) -> None:
    """``reading.arrow_stream`` translates by it. Without it a wrong query looks like a server that is away."""
    with (
        adbc_driver_postgresql.connect(read_database_url(migrated_database_url).libpq_url()) as database,
        adbc_driver_manager.AdbcConnection(database) as connection,
        adbc_driver_manager.AdbcStatement(connection) as statement,
    ):
        statement.set_sql_query("SELECT nonsense")
        with pytest.raises(adbc_driver_manager.Error) as caught:
            statement.execute_query()

    assert caught.value.sqlstate == "42703"


@pytest.mark.parametrize("name", ["cancel", "execute_query", "set_sql_query"])
def test_a_statement_can_be_run_and_cancelled(name: str) -> None:
    """A read that is cancelled ends its query on the server by ``AdbcStatement.cancel``."""
    assert callable(getattr(adbc_driver_manager.AdbcStatement, name))
