"""``candles`` in all its formats."""

import csv
import io
import json
from datetime import datetime

import asyncpg
import msgspec
import pytest

from kraken_history.provider import HistoricalDataProvider
from kraken_history.records import HistoricalCandle
from tests.cli.samples import store, trade
from tests.support.command import Run
from tests.support.servers import Background

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
FIELDS = list(HistoricalCandle.__struct_fields__)


@pytest.fixture
def filled_url(migrated_database_url: str, background: Background) -> str:
    """Ten minutes with a trade each; the first price has trailing zeros, all volumes are tiny."""
    trades = [trade(n, 60 * n, price="0.000000100" if n == 1 else f"0.0000{n}") for n in range(1, 11)]
    background.run(store(migrated_database_url, trades))
    return migrated_database_url


async def stored(database_url: str) -> list[HistoricalCandle]:
    async with HistoricalDataProvider(database_url, 1, 1) as provider:
        return await provider.get_latest_candles("BTC/USDT", 1, 100)


def from_texts(row: dict[str, object]) -> HistoricalCandle:
    return msgspec.convert([row[field] for field in FIELDS], HistoricalCandle, strict=False)


def test_json_carries_the_stored_candles_exactly(filled_url: str, background: Background, command: Run) -> None:
    outcome = command("candles", "BTC/USDT", "--format", "json", DATABASE_URL=filled_url)
    rows = json.loads(outcome.out)

    assert outcome.code == 0
    assert list(rows[0]) == FIELDS
    assert [from_texts(row) for row in rows] == background.run(stored(filled_url))


def test_csv_carries_the_stored_candles_exactly(filled_url: str, background: Background, command: Run) -> None:
    outcome = command("candles", "btc/usdt", "--format", "csv", DATABASE_URL=filled_url)
    rows = list(csv.DictReader(io.StringIO(outcome.out)))

    assert outcome.code == 0
    assert list(rows[0]) == FIELDS
    assert [from_texts(dict(row)) for row in rows] == background.run(stored(filled_url))


def test_numbers_are_written_without_zeros_at_the_end(filled_url: str, background: Background, command: Run) -> None:
    async def text_in_the_database() -> str:
        connection = await asyncpg.connect(filled_url)
        try:
            return str(await connection.fetchval("SELECT open::text || ',' || volume::text FROM candles ORDER BY 1"))
        finally:
            await connection.close()

    row = json.loads(command("candles", "BTC/USDT", "--format", "json", DATABASE_URL=filled_url).out)[0]

    assert (row["open"], row["volume"]) == ("0.0000001", "0.0000015")
    assert background.run(text_in_the_database()) == "0.000000100,0.00000150"


def test_the_table_shows_every_digit(filled_url: str, command: Run) -> None:
    outcome = command("candles", "BTC/USDT", DATABASE_URL=filled_url)

    assert outcome.code == 0
    assert "0.0000001 " in outcome.out
    assert "E-" not in outcome.out


def test_from_is_included_and_to_is_not(filled_url: str, command: Run) -> None:
    outcome = command(
        *("candles", "BTC/USDT", "--from", "2026-01-05T10:02", "--to", "2026-01-05T12:05:00+02:00"),
        *("--format", "json"),
        DATABASE_URL=filled_url,
    )

    assert [row["timestamp"] for row in json.loads(outcome.out)] == [
        "2026-01-05T10:02:00Z",
        "2026-01-05T10:03:00Z",
        "2026-01-05T10:04:00Z",
    ]


@pytest.mark.parametrize(
    ("options", "minutes"),
    [
        (["--limit", "2"], [9, 10]),
        (["--to", "2026-01-05T10:05", "--limit", "2"], [3, 4]),
        (["--from", "2026-01-05", "--limit", "2"], [1, 2]),
        (["--from", "2026-01-05T10:09"], [9, 10]),
    ],
)
def test_a_limit_without_from_means_the_latest(
    options: list[str], minutes: list[int], filled_url: str, command: Run
) -> None:
    outcome = command("candles", "BTC/USDT", *options, "--format", "json", DATABASE_URL=filled_url)

    assert [datetime.fromisoformat(row["timestamp"]).minute for row in json.loads(outcome.out)] == minutes


def test_a_longer_interval_comes_from_its_view(filled_url: str, command: Run) -> None:
    rows = json.loads(
        command("candles", "BTC/USDT", "--interval", "5", "--format", "json", DATABASE_URL=filled_url).out
    )

    assert [(row["timestamp"][11:16], row["interval_minutes"], row["trade_count"]) for row in rows] == [
        ("10:00", 5, 4),
        ("10:05", 5, 5),
        ("10:10", 5, 1),
    ]


@pytest.mark.parametrize(("format_", "out"), [("json", "[]\n"), ("csv", ",".join(FIELDS) + "\n"), ("table", "")])
def test_where_nothing_is_stored_yet_the_answer_is_empty(
    format_: str, out: str, migrated_database_url: str, command: Run
) -> None:
    outcome = command("candles", "BTC/USDT", "--format", format_, DATABASE_URL=migrated_database_url)

    assert (outcome.code, outcome.out) == (0, out)
    assert outcome.err.startswith("nothing is stored yet")
