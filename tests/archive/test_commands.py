"""``archive``, ``restore-archive`` and ``verify --archive``."""

import json
from pathlib import Path

import pytest

from kraken_history.database.connections import create_pool
from tests.archive.conftest import store_history
from tests.support.command import Run
from tests.support.servers import Background, DatabaseServer

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


@pytest.fixture
def filled(
    migrated_database_url: str,
    background: Background,
    command: Run,  # sets its environment, so it comes before ours
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    async def fill() -> None:
        async with await create_pool(migrated_database_url, min_size=1, max_size=2) as pool:
            await store_history(pool)

    background.run(fill())
    monkeypatch.setenv("DATABASE_URL", migrated_database_url)
    return migrated_database_url


def test_the_archive_is_written_checked_and_restored(
    filled: str, command: Run, tmp_path: Path, database_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"file://{tmp_path}/archive"

    first = command("archive", uri, "XBTUSDT")
    again = command("archive", uri, "--all", "--json")
    checked = command("verify", "--archive", uri)

    assert (first.code, again.code, checked.code) == (0, 0, 0), (first.err, again.err, checked.err)
    lines = first.out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["BTC/USDT", month, "written"] for month in ("2025-10", "2025-11", "2025-12")
    ]
    assert "not proven" in lines[1]
    assert first.err == "3 month(s) written\n"
    found = json.loads(again.out)
    assert [(each["symbol"], each["state"]) for each in found] == [("BTC/USDT", "current")] * 3 + [
        ("ETH/USDT", "written")
    ] * 3
    assert found[-1]["rows"] == {"candles_1m": found[-1]["rows"]["trades"], "trades": found[-1]["rows"]["trades"]}
    assert len(checked.out.splitlines()) == 6
    assert checked.out.count("digests right, equal to the database") == 6

    empty = database_server.create_migrated_database()
    monkeypatch.setenv("DATABASE_URL", empty)
    restored = command("restore-archive", uri, "ETHUSDT")
    differing = command("verify")
    database_server.drop_database(empty)

    assert restored.code == 0, restored.err
    assert [line.split()[:3] for line in restored.out.splitlines()] == [
        ["ETH/USDT", month, "restored"] for month in ("2025-10", "2025-11", "2025-12")
    ]
    assert differing.out.endswith("everything agrees\n"), differing.out


def test_a_damaged_file_is_named(filled: str, command: Run, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    command("archive", str(folder), "--all")
    path = folder / "trades/symbol=ETH-USDT/month=2025-12.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))

    outcome = command("verify", "--archive", str(folder))

    assert outcome.code == 1
    (wrong,) = (line for line in outcome.out.splitlines() if "digests right" not in line)
    assert wrong.startswith("ETH/USDT  2025-12 ")
    assert "is damaged: expected SHA-256" in wrong


def test_a_folder_with_other_files_is_refused(filled: str, command: Run, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()

    outcome = command("archive", str(tmp_path), "--all")

    assert outcome.code == 1
    assert outcome.err.startswith("kraken-history: expected an empty place or an archive of kraken-history, got ")
    assert [each.name for each in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("archive", "/tmp/x"), "expected symbols or --all"),
        (("archive", "/tmp/x", "BTC/USDT", "--all"), "expected symbols or --all"),
        (("archive", "ftp://user:secret@host/x", "--all"), "expected a folder, file:///path or s3://bucket/path, got"),
        (("verify", "--archive", "s3://key:secret@bucket/x?endpoint=y"), "as an archive"),
        (("verify", "--archive", "/tmp/x", "--repair"), "expected --archive without"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    migrated_database_url: str,
    command: Run,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", migrated_database_url)

    outcome = command(*arguments)

    assert outcome.code == 2
    assert message in outcome.err
    assert "secret" not in outcome.err
    assert outcome.err.count("\n") == 1
