"""The scenarios as tests: a few in every run, all of them with ``-m faults``."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.servers import Fleet


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long scenarios out unless they are asked for; pytest reports how many."""
    if "faults" in config.getoption("markexpr"):
        return
    out = {item for item in items if item.get_closest_marker("long_fault") is not None}
    config.hook.pytest_deselected(items=[item for item in items if item in out])
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def fleet(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[Fleet]:
    """The clusters that the scenarios share."""
    if request.config.getoption("--without-servers"):
        pytest.skip("the scenarios start servers")
    with tempfile.TemporaryDirectory(dir=servers_folder, prefix="faults-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # the servers may run under another account
        fleet = Fleet(Path(name))
        yield fleet
        asyncio.run(fleet.close())
