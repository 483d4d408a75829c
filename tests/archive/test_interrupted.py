"""A run that is killed at any moment leaves an archive that can be read, and the next run completes it."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from pyarrow.fs import LocalFileSystem

from kraken_history.archive.checking import check_archive
from kraken_history.archive.files import content_of, open_object
from kraken_history.archive.manifest import TABLES
from kraken_history.archive.place import Folder, ObjectStore, read_manifests
from kraken_history.archive.writing import ArchiveIsRunning, sole_archiver
from kraken_history.storing.store import Store
from tests.archive.conftest import BTC, HOLE, archived, trade

pytestmark = pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)


class Killed(BaseException):
    """The process ends here."""


class Mortal(Folder):
    """A folder whose process is killed in its n-th write: before the file is replaced, with a part of it left."""

    def __init__(self, folder: Path, writes: int) -> None:
        super().__init__(folder)
        self.left = writes

    def _live(self, path: str) -> None:
        if not self.left:
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(f".{target.name}.1.part").write_bytes(b"PAR1 and no more")
            raise Killed
        self.left -= 1

    def put(self, path: str, source: Path) -> None:
        self._live(path)
        super().put(path, source)

    def put_bytes(self, path: str, data: bytes) -> None:
        self._live(path)
        super().put_bytes(path, data)


def all_can_be_read(place: Folder) -> int:
    """Every month that the manifests list has files that an entry describes; return how many files."""
    files = 0
    for manifest in read_manifests(place):
        for month in manifest.known_months:
            for table in TABLES:
                try:
                    opened = open_object(place, manifest.entries(month), table)
                except Exception:
                    # Listed, and not there yet: only if the month was never complete.
                    assert not any(each.is_complete for each in manifest.entries(month))
                    assert not (place.folder / manifest.entries(month)[0].objects[table].path).exists()
                    continue
                assert opened is not None
                assert content_of(table, opened.file) == opened.described.content
                files += 1
    return files


async def test_a_kill_in_any_write_leaves_a_readable_archive(history: asyncpg.Pool, place: Folder) -> None:
    for writes in range(5):  # the marker first, then the steps of a month, of which one is two files
        with pytest.raises(Killed):
            await archived(history, Mortal(place.folder, writes), BTC)
        all_can_be_read(place)
    await archived(history, place)
    whole = all_can_be_read(place)
    assert whole == 12

    await Store(history).write([trade(HOLE.start)])
    for writes in range(4):
        with pytest.raises(Killed):
            await archived(history, Mortal(place.folder, writes), BTC)
        assert all_can_be_read(place) == whole
    await archived(history, place, BTC)

    assert not list(place.folder.rglob(".*"))
    assert all(len(entries) == 1 for each in read_manifests(place) for entries in each.months.values())
    checked = [month async for month in check_archive(history, place, seed=1)]
    assert [each.problem for each in checked] == [""] * 6
    assert all(each.is_compared for each in checked)


async def test_one_process_archives_at_a_time(history: asyncpg.Pool, place: Folder) -> None:
    async with sole_archiver(history):
        with pytest.raises(ArchiveIsRunning, match="wait for it, or try again later"):
            await asyncio.wait_for(archived(history, place), 10)


async def test_an_object_store_is_used_through_pyarrow(history: asyncpg.Pool, tmp_path: Path) -> None:
    """Through pyarrow's interface of file systems, which S3 has too."""
    for folder in ("manifest", "trades/symbol=BTC-USDT", "candles_1m/symbol=BTC-USDT"):
        (tmp_path / folder).mkdir(parents=True)  # an object store has no folders
    place = ObjectStore(LocalFileSystem(), str(tmp_path), "s3://bucket/archive")

    outcomes = await archived(history, place, BTC)  # type: ignore[arg-type]

    assert [each.state for each in outcomes] == ["written"] * 3
    assert {each.state for each in await archived(history, place, BTC)} == {"current"}  # type: ignore[arg-type]
    checked = [month async for month in check_archive(history, place, seed=1)]
    assert [(each.problem, each.is_compared) for each in checked] == [("", True)] * 3
    assert sorted(place.list()) == sorted(Folder(tmp_path).list())
