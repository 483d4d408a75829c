"""Servers, databases and recordings for the tests.

``database_server`` runs a test once on each kind of server. A test about only one of them selects it::

    @pytest.mark.parametrize("database_server", ["timescaledb"], indirect=True)

``pytest --without-servers`` leaves out every test that needs one of them.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from kraken_history.embedded import Servers
from kraken_history.errors import UsageError
from tests.support.servers import Background, DatabaseServer, TimescaleCluster, timescaledb_bin_dir

# A checkout may have files with settings, for Docker Compose or for a person who works on it.
os.environ |= {"KRAKEN_HISTORY_ENV_FILE": "", "KRAKEN_HISTORY_CONFIG": ""}

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


_SERVERS = {"database_server", "embedded_servers", "servers_folder"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """For a quick run, for example on another interpreter."""
    parser.addoption("--without-servers", action="store_true", help="run only tests that need no PostgreSQL and Redis")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need servers, if so requested; pytest reports how many."""
    if not config.getoption("--without-servers"):
        return
    out = {item for item in items if _needs_servers(item)}
    config.hook.pytest_deselected(items=[item for item in items if item in out])
    items[:] = [item for item in items if item not in out]


def _needs_servers(item: pytest.Item) -> bool:
    starts_them = item.get_closest_marker("servers") is not None
    return starts_them or not _SERVERS.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    """An event loop for fixtures that are not asynchronous."""
    loop = Background()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the servers' data: in memory if there is room, because each test copies a database.

    If a run is killed, its folder remains.
    """
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM_BYTES:
        yield tmp_path_factory.mktemp("servers")
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY, prefix="kraken-history-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # the servers may run as another user
        yield Path(folder)


_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 8 * 2**30


@pytest.fixture(scope="session")
def embedded_servers(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[Servers]:
    """PostgreSQL and Valkey from the wheels, running, with durability switched off."""
    if request.config.getoption("--without-servers"):
        pytest.skip("the test requests a server while it runs, but --without-servers is set")
    servers = Servers(servers_folder / "embedded", durable=False)
    with ExitStack() as stack:
        try:
            stack.enter_context(servers.running())
        except UsageError as error:
            pytest.skip(str(error))
        yield servers


@pytest.fixture(scope="session")
def _postgresql_server(embedded_servers: Servers, background: Background) -> Iterator[DatabaseServer]:
    server = DatabaseServer("postgresql", embedded_servers.database_url, background)
    yield server
    server.close()


@pytest.fixture(scope="session")
def _timescaledb_server(servers_folder: Path, background: Background) -> Iterator[DatabaseServer]:
    bin_dir = timescaledb_bin_dir()
    if bin_dir is None:
        pytest.skip("no PostgreSQL with TimescaleDB is installed on this machine")
    cluster = TimescaleCluster(bin_dir, servers_folder)
    try:
        cluster.start()
        server = DatabaseServer("timescaledb", cluster.url, background)
        yield server
        server.close()
    finally:
        cluster.stop()


@pytest.fixture(scope="session", params=["postgresql", "timescaledb"])
def database_server(request: pytest.FixtureRequest) -> DatabaseServer:
    """Each kind of server in turn."""
    server = request.getfixturevalue(f"_{request.param}_server")
    assert isinstance(server, DatabaseServer)
    return server


@pytest.fixture
def database_url(database_server: DatabaseServer) -> Iterator[str]:
    """A new, empty database."""
    url = database_server.create_database()
    yield url
    database_server.drop_database(url)


@pytest.fixture
def migrated_database_url(database_server: DatabaseServer) -> Iterator[str]:
    """A new database with the whole schema and no rows."""
    url = database_server.create_migrated_database()
    yield url
    database_server.drop_database(url)


@pytest.fixture
def redis_url(embedded_servers: Servers) -> str:
    """The URL of an empty Valkey."""
    url = urlsplit(embedded_servers.redis_url)
    with socket.create_connection((str(url.hostname), url.port), timeout=10) as connection:
        connection.sendall(f"AUTH {url.password}\r\nFLUSHALL\r\nSCRIPT FLUSH\r\n".encode())
        with connection.makefile("rb") as answer:
            assert [answer.readline() for _ in range(3)] == [b"+OK\r\n"] * 3
    return embedded_servers.redis_url


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of recordings of Kraken's answers."""
    folder = Path(os.environ.get("KRAKEN_RECORDINGS", REPOSITORY.parent / "shared/kraken"))
    if not folder.is_dir():
        pytest.skip(f"no recordings of Kraken's answers in {folder}; set KRAKEN_RECORDINGS")
    return folder


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of small inputs that once failed, in the shape that the field uses."""
    folder = Path(os.environ.get("KRAKEN_CASES", REPOSITORY.parent / "shared/cases"))
    if not folder.is_dir():
        pytest.skip(f"no inputs that once failed in {folder}; set KRAKEN_CASES")
    return folder
