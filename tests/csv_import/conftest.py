"""A database of either flavour, and importing into it without asking Kraken anything."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import asyncpg
import pytest

from kraken_history.csv_import import CsvError, CsvImporter, Imported, Skipped, found_files
from kraken_history.database.connections import create_pool
from kraken_history.errors import ServiceUnavailable
from kraken_history.symbols import Pair

Outcome = Imported | Skipped | CsvError
Import = Callable[..., Awaitable[list[Outcome]]]


async def no_kraken() -> Iterable[Pair]:
    """Kraken is out of reach."""
    raise ServiceUnavailable("no answer from Kraken")


@pytest.fixture
async def pool(migrated_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await create_pool(migrated_database_url, min_size=1, max_size=4)
    yield opened
    opened.terminate()


@pytest.fixture
def import_csv(pool: asyncpg.Pool) -> Import:
    """Imports paths: ``await import_csv(path, symbol="BTC/USDC")``."""

    async def run(*paths: Path, symbol: str | None = None) -> list[Outcome]:
        with found_files(paths) as (files, refused):
            importer = CsvImporter(pool, no_kraken, symbol=symbol)
            return [*refused, *[outcome async for outcome in importer.import_files(files)]]

    return run
