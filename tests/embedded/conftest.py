"""Servers to start, stop and kill."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_history.embedded import Servers


@pytest.fixture
def new_servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers that do not exist yet."""
    servers = Servers(tmp_path / "data", durable=False)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Servers:
    servers = Servers(tmp_path_factory.mktemp("data dir"), durable=False)
    servers.prepare()
    return servers


@pytest.fixture
def servers(_prepared: Servers) -> Iterator[Servers]:
    """Servers that do not run; earlier tests may have used them, for making new ones is slow."""
    yield _prepared
    _prepared.stop()


@pytest.fixture
def data_dir(servers: Servers) -> Path:
    """The folder of ``servers``."""
    return servers.data_dir
