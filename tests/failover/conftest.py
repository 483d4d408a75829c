"""A primary and a standby, with the schema."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_history.database.migrations import migrate
from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
from tests.support.replication import Pair, replicated
from tests.support.servers import Background


@pytest.fixture
def pair(servers_folder: Path, background: Background) -> Iterator[Pair]:
    """A migrated primary and its standby, which has caught up."""
    folder = servers_folder / "replicated"
    folder.mkdir()
    folder.chmod(0o711)
    with replicated(folder, {"wal_keep_size": "64MB"}) as pair:
        background.run(migrate(pair.primary_url))
        background.run(pair.caught_up())
        yield pair
