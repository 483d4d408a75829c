"""What ``pip install kraken-history`` brings."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from tests.support.compose_file import REPOSITORY
from tests.support.distributions import build

# Runs outside of the checkout, with the unpacked wheel in front; of other packages only the named ones are there.
_ISOLATED = """
import sys
from importlib.abc import MetaPathFinder

wheel, *allowed = sys.argv[1:]

class OnlyAllowed(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("kraken_history", *allowed):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, OnlyAllowed())
sys.path.insert(0, wheel)
import kraken_history
assert kraken_history.__file__.startswith(wheel), kraken_history.__file__
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    return build(REPOSITORY, "wheel", tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it out."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_isolated(unpacked: Path, code: str, *allowed: str) -> str:
    """Run code that sees the wheel, the standard library and the allowed packages; return what it printed."""
    command = [sys.executable, "-c", _ISOLATED + code, str(unpacked), *allowed]
    ran = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_it_holds_the_library_and_nothing_else(unpacked: Path) -> None:
    top = sorted(path.name for path in unpacked.iterdir())

    assert top == ["kraken_history", next(name for name in top if name.endswith(".dist-info"))]


def test_it_holds_every_module_the_type_marker_and_the_licence(unpacked: Path) -> None:
    source = REPOSITORY / "src/kraken_history"
    modules = {path.relative_to(source) for path in source.rglob("*.py")}
    packed = {path.relative_to(unpacked / "kraken_history") for path in unpacked.glob("kraken_history/**/*.py")}

    assert packed == modules
    assert (unpacked / "kraken_history/py.typed").is_file()
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))


def test_it_holds_the_schema(unpacked: Path) -> None:
    packed = {path.name: path.read_text() for path in unpacked.glob("kraken_history/_schema/*")}

    assert packed == {path.name: path.read_text() for path in (REPOSITORY / "schema").glob("*.sql")}


def test_it_brings_asyncpg_and_msgspec_and_the_rest_by_extras(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    headers = HeaderParser().parsestr(metadata.read_text())
    required = {line.split(">")[0] for line in headers.get_all("Requires-Dist", []) if "extra ==" not in line}

    assert required == {"asyncpg", "msgspec"}
    assert set(headers.get_all("Provides-Extra", [])) == {"services", "embedded", "arrow", "frames", "plot", "web"}


def test_importing_it_needs_msgspec_only(unpacked: Path) -> None:
    code = """
from kraken_history import HistoricalCandle, HistoricalTrade, ServiceUnavailable, TimeRange
print(sorted(name for name in sys.modules if name in ("asyncio", "asyncpg", "msgspec")))
"""

    assert run_isolated(unpacked, code, "msgspec").strip() == "['msgspec']"


def test_reading_and_migrating_need_asyncpg_besides(unpacked: Path) -> None:
    code = """
from kraken_history import HistoricalDataProvider
from kraken_history.database.migrations import migrate, read_migrations
from kraken_history.storing.store import Store
print(len(read_migrations()))
"""

    count = int(run_isolated(unpacked, code, "msgspec", "asyncpg"))

    assert count == len(list((REPOSITORY / "schema").glob("*.sql")))


def test_the_command_starts_from_it(unpacked: Path) -> None:
    code = """
from kraken_history.__main__ import main
sys.argv = ["kraken-history", "--version"]
main()
"""
    needs = ("msgspec", "typer", "click", "rich", "shellingham", "annotated_doc", "typing_extensions")

    version = run_isolated(unpacked, code, *needs)

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert version == f"kraken-history {project['version']}\n"


def test_every_public_name_exists_in_the_checkout_too() -> None:
    import kraken_history

    assert [name for name in kraken_history.__all__ if not hasattr(kraken_history, name)] == []
    assert kraken_history.__all__ == sorted(kraken_history.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = kraken_history.nonsense  # type: ignore[attr-defined]
