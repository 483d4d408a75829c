"""The page for readers of the specification names everything that the specification defines."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SPECIFICATION = REPOSITORY.parent / "shared/spec"
PAGE = REPOSITORY / "docs/from-the-specification.md"

_DEFINITION = re.compile(r"^ *(?:async )?(?:def|class) (\w+)", re.MULTILINE)
_CONSTANT = re.compile(r"^ {0,4}([A-Z][A-Z_]{3,}) *=", re.MULTILINE)
_IN_A_DIAGRAM = re.compile(r"│ +(?:async )?(_?[a-z]\w+)\(.*│|│ +(_?\w+): .*│")
_SCRIPT = re.compile(r"scripts/[\w-]+\.\w+|container_name: (\w+)|python -m ([\w.]+)")

# Names that no reader looks up: attributes such as a pool or a lock, captions, variables of a shell script.
_NOT_OURS = {
    "__init__", "pool", "session", "symbols", "_running", "_lock", "_flush_task", "trade_buffer", "candle_buffer",
    "Candles", "Port", "Trades", "Volumes", "subscribe", "BACKUP_DIR", "BACKUP_FILE", "TIMESTAMP",
}  # fmt: skip


@pytest.fixture(scope="module")
def specification() -> str:
    if not SPECIFICATION.is_dir():
        pytest.skip(f"the specification is not in {SPECIFICATION}")
    return "\n".join(path.read_text() for path in sorted(SPECIFICATION.glob("*-*.md")))


def test_every_class_function_and_constant_is_on_the_page(specification: str) -> None:
    names = set(_DEFINITION.findall(specification)) | set(_CONSTANT.findall(specification))
    page = PAGE.read_text()

    assert len(names) > 70
    assert sorted(name for name in names - _NOT_OURS if not re.search(rf"\b{name}\b", page)) == []


def test_every_method_and_figure_of_the_diagrams_is_on_the_page(specification: str) -> None:
    names = {one or other for one, other in _IN_A_DIAGRAM.findall(specification)}
    page = PAGE.read_text()

    assert {"get_stats", "_overflow_count", "rate_limit_delay"} <= names
    assert sorted(name for name in names - _NOT_OURS if not re.search(rf"\b{name}\b", page)) == []


def test_every_script_container_and_program_is_on_the_page(specification: str) -> None:
    names = {found[1] or found[2] or found[0] for found in _SCRIPT.finditer(specification)}
    page = PAGE.read_text()

    assert {"kraken_timescaledb", "scripts/init-db.sql"} <= names
    assert sorted(name for name in names if name not in page) == []


def test_nothing_of_it_is_copied(specification: str) -> None:
    """No line of twelve words or of code is the specification's own."""
    theirs = {" ".join(line.split()) for line in specification.splitlines()}
    ours = {" ".join(line.split()) for line in PAGE.read_text().splitlines()}
    long = {line for line in ours & theirs if len(line.split()) > 5}

    assert long == set()
