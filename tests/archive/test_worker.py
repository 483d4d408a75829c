"""The worker keeps the archive of ``ARCHIVE_URL`` up to date, and drops only what it holds."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest

from jobs.archive import update_archive
from jobs.context import WorkerContext
from jobs.partitions import apply_retention
from kraken_history.archive.place import Folder, read_manifests
from kraken_history.settings import Settings
from kraken_history.storing.aggregates import refresh
from kraken_history.storing.store import Store
from tests.archive.conftest import BTC, CLOSED, ETH

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


def context_of(pool: asyncpg.Pool, **settings: Any) -> dict[str, Any]:
    rest = SimpleNamespace(clock=SimpleNamespace(now=lambda: datetime.now(UTC)))
    given = Settings.model_validate({"retention_trades_days": 1, **settings})
    return {"context": WorkerContext(given, pool, Store(pool), cast(Any, rest), cast(Any, None), cast(Any, None))}


async def test_the_archive_is_written_before_anything_is_dropped(history: asyncpg.Pool, tmp_path: Path) -> None:
    place = Folder(tmp_path / "archive")
    ctx = context_of(history, archive_url=str(place.folder))
    await refresh(history)

    assert await apply_retention(ctx) == 0
    assert await update_archive(ctx) == 6
    assert await update_archive(ctx) == 0
    assert await apply_retention(ctx) > 0

    assert {each.symbol: tuple(each.months) for each in read_manifests(place)} == {BTC: CLOSED, ETH: CLOSED}


async def test_without_a_place_nothing_is_archived(history: asyncpg.Pool) -> None:
    assert await update_archive(context_of(history)) == 0


async def test_a_place_that_is_no_archive_drops_nothing(history: asyncpg.Pool, tmp_path: Path) -> None:
    (tmp_path / "archive.json").write_text("{}")
    ctx = context_of(history, archive_url=str(tmp_path))
    await refresh(history)

    assert await update_archive(ctx) == 0
    assert await apply_retention(ctx) == 0
