"""The room ``storing/`` alone writes market data, and beside it ``completeness/`` alone keeps ``data_sync_status``.

Statements are looked for in the strings of the code. A table whose name is put in when the program runs is nobody
knows which, and counts as found.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = ("src/kraken_history", "producers", "consumers", "jobs", "simulator", "examples")
STORING, COMPLETENESS = "src/kraken_history/storing/", "src/kraken_history/completeness/"

UNKNOWN = "{}"

_TABLE = r"""(?:[\w"]+\.)?"?[\w{}]+"?"""
_STATEMENT = re.compile(
    rf"\b(INSERT INTO|UPDATE|DELETE FROM|MERGE INTO|TRUNCATE(?: TABLE)?|DROP TABLE(?: IF EXISTS)?|COPY|drop_chunks ?\()"
    rf" ?(?:ONLY )?'?({_TABLE}(?: ?, ?{_TABLE})*)",
    re.IGNORECASE,
)
_COPIES = ("copy_to_table", "copy_records_to_table")


_MARKET_DATA = (
    "trades", "candles", "longer_candles", "candle_aggregates", "dropped_ranges", "contested_minutes",
    "corrected_minutes", "refused_trades", "reused_ids", "stale_hours", "stale_buckets", "minute_maps",
    "archived_months",
)  # fmt: skip


def is_market_data(table: str) -> bool:
    return table in _MARKET_DATA or table.startswith("candles_")


def is_ledger(table: str) -> bool:
    return table in ("data_sync_status", "sync_keys", "unheld_ids", "absent_ids", "absence_evidence")


def writes_in(code: str, is_meant: Callable[[str], bool]) -> list[str]:
    """The statements in a module that write such tables, each as its verb and its table."""
    tree = ast.parse(code)
    found = [write for text in _texts(tree) for write in _statements(text)]
    found += [(node.func.attr, _first_argument(node)) for node in ast.walk(tree) if _copies(node)]  # type: ignore[attr-defined]
    return sorted(f"{verb} {table}" for verb, table in found if table == UNKNOWN or is_meant(table))


def _statements(text: str) -> Iterator[tuple[str, str]]:
    for verb, tables in _STATEMENT.findall(" ".join(text.split())):
        for table in tables.split(","):
            name = table.split(".")[-1].strip(' "')
            yield verb.upper(), UNKNOWN if "{" in name else name


def _texts(tree: ast.AST) -> Iterator[str]:
    """Every string but docstrings, put together where it is made of several."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }

    def visit(node: ast.AST) -> Iterator[str]:
        text = None if id(node) in docstrings else _text(node)
        if text is not None:
            yield text
        for child in ast.iter_child_nodes(node):
            # Parts of a string that was put together are not looked at again, but what is put into it is.
            if text is None or isinstance(child, ast.FormattedValue):
                yield from visit(child)

    return visit(tree)


def _text(node: ast.AST) -> str | None:
    """A string, with ``{}`` for what is known only when the program runs; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) or UNKNOWN for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        left, right = _text(node.left), _text(node.right)
        if isinstance(node.op, ast.Mod):
            return None if left is None else re.sub(r"%\(?\w*\)?s", UNKNOWN, left)
        return None if left is None and right is None else (left or UNKNOWN) + (right or UNKNOWN)
    return None


def _copies(node: ast.AST) -> bool:
    """True for a call that copies into a table, but for one that a method of the same name passes on."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _COPIES):
        return False
    return ast.unparse(node.func.value) != "super()"


def _first_argument(node: ast.AST) -> str:
    assert isinstance(node, ast.Call)
    named = [keyword.value for keyword in node.keywords if keyword.arg == "table_name"]
    name = _text([*node.args, *named][0])
    return UNKNOWN if name is None or "{" in name else name


def writes_outside(rooms: tuple[str, ...], is_meant: Callable[[str], bool]) -> dict[str, list[str]]:
    """By module, those of all modules but the ones in these rooms."""
    modules = [path for place in PLACES for path in sorted((REPOSITORY / place).rglob("*.py"))]
    names = {path.relative_to(REPOSITORY).as_posix(): path for path in modules}
    found = {name: writes_in(path.read_text(), is_meant) for name, path in names.items() if not name.startswith(rooms)}
    return {name: writes for name, writes in found.items() if writes}


def test_storing_alone_writes_trades_candles_and_longer_intervals() -> None:
    assert writes_outside((STORING,), is_market_data) == {}


def test_storing_and_completeness_alone_write_the_ledger_and_the_coverage() -> None:
    assert writes_outside((STORING, COMPLETENESS), is_ledger) == {}


def test_what_storing_writes_is_found() -> None:
    """Otherwise the tests above would prove nothing."""
    found = {each for writes in writes_outside((), is_market_data).values() for each in writes}

    assert {
        "INSERT INTO candles", "UPDATE candles", "copy_to_table trades", "copy_records_to_table trades",
        "copy_to_table {}", "DELETE FROM {}", "UPDATE candle_aggregates", "DROP TABLE {}", "INSERT INTO dropped_ranges",
    } <= found  # fmt: skip


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('await c.execute("INSERT INTO trades (id) VALUES (1)")', "INSERT INTO trades"),
        ('q = """\n    WITH x AS (SELECT 1)\n    INSERT\n    INTO candles AS c SELECT 1"""', "INSERT INTO candles"),
        ('q = f"INSERT INTO candles ({names}) SELECT {names} FROM x"', "INSERT INTO candles"),
        ('q = "insert into public.candles_5m_rows select 1"', "INSERT INTO candles_5m_rows"),
        ('q = "UPDATE ONLY \\"trades\\" SET price = 1"', "UPDATE trades"),
        ('q = "UPDATE candle_aggregates SET refreshed_at = 1"', "UPDATE candle_aggregates"),
        ('q = "DELETE FROM candles WHERE true"', "DELETE FROM candles"),
        ('q = "TRUNCATE backfills, trades"', "TRUNCATE trades"),
        ('q = "COPY trades (id) FROM STDIN"', "COPY trades"),
        ("q = \"SELECT drop_chunks('candles', now())\"", "DROP_CHUNKS( candles"),
        ('q = f"DELETE FROM {table} WHERE timestamp < $1"', "DELETE FROM {}"),
        ('q = "DELETE FROM {table}".format(table=name)', "DELETE FROM {}"),
        ('q = "DELETE FROM %s" % name', "DELETE FROM {}"),
        ('q = "DELETE FROM " + name', "DELETE FROM {}"),
        ('q = "DELETE FROM " "trades"', "DELETE FROM trades"),
        ("q = f\"{run('DELETE FROM trades')}\"", "DELETE FROM trades"),
        ('await c.copy_records_to_table("trades", records=rows)', "copy_records_to_table trades"),
        ('await c.copy_to_table(table_name="candles", source=rows)', "copy_to_table candles"),
        ("await c.copy_to_table(name, source=rows)", "copy_to_table {}"),
    ],
)
def test_a_write_in_another_room_would_be_found(code: str, found: str) -> None:
    assert writes_in(code, is_market_data) == [found]


@pytest.mark.parametrize(
    "code",
    [
        '"""UPDATE trades, in a docstring."""',
        'q = "SELECT * FROM trades FOR UPDATE OF t"',
        'q = "INSERT INTO backfills AS b (symbol) VALUES ($1) ON CONFLICT (symbol) DO UPDATE SET x = 1"',
        'q = "COPY (SELECT * FROM candles) TO STDOUT"',
        'q = "UPDATE backfills SET trades = trades + 1"',
        'await c.copy_records_to_table("backtest_runs", records=rows)',
    ],
)
def test_reading_and_writing_something_else_is_not_taken_for_a_write(code: str) -> None:
    assert writes_in(code, is_market_data) == []
