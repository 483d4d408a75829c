"""Whatever a file holds, it is imported or refused, and nothing in between."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kraken_history.csv_import import CsvError, CsvFile, CsvImporter, Imported, Phase, found_files
from kraken_history.database.connections import create_pool
from tests.csv_import.conftest import Outcome, no_kraken
from tests.support.csv_files import START_S, candle_line, trade_line, write_zip
from tests.support.servers import Background

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)

CANDLES = "".join(candle_line(minute, volume="1E-2") + "\n" for minute in range(4)).encode()
TRADES = "".join(trade_line(20 * n) + "\n" for n in range(4)).encode()
DAMAGE = st.binary(max_size=3) | st.sampled_from(
    [b"\n", b"\r\n", b",", b".", b"-", b"+", b"0", b"E", b"NaN", b"\0", b"1."]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A right file in which a few bytes were put, replaced or left out."""
    content = draw(st.sampled_from([CANDLES, TRADES]))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(DAMAGE) + content[at + draw(st.integers(0, 3)) :]
    return content


@pytest.fixture
def connections(migrated_database_url: str, background: Background) -> Iterator[asyncpg.Pool]:
    """Of the loop of the fixtures, because the tests here are not asynchronous."""
    pool = background.run(create_pool(migrated_database_url, min_size=1, max_size=2))
    yield pool
    background.run(pool.close())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), damaged()), is_candles=st.booleans(), stands=st.booleans())
def test_a_file_is_imported_or_refused(
    connections: asyncpg.Pool, background: Background, tmp_path: Path, content: bytes, is_candles: bool, stands: bool
) -> None:
    path = tmp_path / ("XBTUSDT_1.csv" if is_candles else "XBTUSDT.csv")

    async def run(content: bytes) -> tuple[Outcome, asyncpg.Record]:
        path.write_bytes(content)
        with found_files([path]) as (files, _):
            (outcome,) = [outcome async for outcome in CsvImporter(connections, no_kraken).import_files(files)]
        row = await connections.fetchrow(
            "SELECT (SELECT count(*) FROM candles) AS candles, (SELECT sum(trade_count) FROM candles) AS trades,"
            " (SELECT sum(total_records) FROM data_sync_status) AS total"
        )
        assert row is not None
        return outcome, row

    background.run(_execute(connections, "TRUNCATE candles, data_sync_status, sync_keys"))
    before = background.run(run(CANDLES if is_candles else TRADES))[1] if stands else None
    outcome, after = background.run(run(content))

    if isinstance(outcome, CsvError):
        assert "\n" not in str(outcome)
        assert tuple(after) == (tuple(before) if before else (0, None, None))
    else:
        assert isinstance(outcome, Imported)
        assert after["candles"] == after["total"]
        assert is_candles or stands or after["trades"] == outcome.rows
        assert stands or after["candles"] == outcome.candles == outcome.new_candles


async def _execute(pool: asyncpg.Pool, statement: str) -> None:
    await pool.execute(statement)


async def test_memory_does_not_grow_with_the_file(migrated_database_url: str, tmp_path: Path) -> None:
    rows = 300_000
    lines = (f"{START_S + 60 * n},100.0,102.0,99.0,101.5,{n}.25,{n + 1}\n" for n in range(rows))
    path = write_zip(tmp_path / "all.zip", {"XBTUSDT_1.csv": "".join(lines).encode()})
    process = psutil.Process()
    samples: list[int] = []

    def sample(file: CsvFile, phase: Phase, done: int) -> None:
        assert done <= file.size
        samples.append(process.memory_info().rss)

    async with await create_pool(migrated_database_url, min_size=1, max_size=1) as pool:
        with found_files([path]) as (files, _):
            (outcome,) = [outcome async for outcome in CsvImporter(pool, no_kraken).import_files(files, sample)]
        assert await pool.fetchval("SELECT count(*) FROM candles") == rows

    assert isinstance(outcome, Imported)
    assert len(samples) > 150
    assert max(samples) - samples[10] < 8 * 2**20  # the file has 14 MB
