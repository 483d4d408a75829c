"""Opens the files of an archive, each with the entry of the manifest that describes it."""

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow
from msgspec import Struct
from pyarrow.parquet import ParquetFile

from kraken_history.archive.manifest import ArchivedObject, ArchiveError, Entry, TableName
from kraken_history.archive.place import Place
from kraken_history.archive.snapshot import CONTENT_KEY
from kraken_history.archive.tables import Digest

_BLOCK_BYTES = 8 * 2**20


class OpenObject(Struct, frozen=True):
    """A file of the archive.

    Attributes:
        entry: The entry that describes this file.
        described: What it says about it.
    """

    entry: Entry
    described: ArchivedObject
    file: ParquetFile


def open_object(place: Place, entries: Sequence[Entry], table: TableName) -> OpenObject | None:
    """Open the file of a month; None if the month has no file of this table.

    While a month is being replaced, several entries describe it. The file itself says which one it belongs to.

    Raises:
        ArchiveError: There is no such file, or no entry describes it.
    """
    having = [entry for entry in reversed(entries) if table in entry.objects]
    if not having:
        return None
    path = having[0].objects[table].path
    try:
        file = ParquetFile(place.open(path), page_checksum_verification=True)
    except FileNotFoundError as error:
        if any(table not in entry.objects for entry in entries):
            return None
        raise ArchiveError(f"{path} is missing in {place.shown}: {REMEDY}") from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ArchiveError(f"cannot read {path} in {place.shown}: {REMEDY}") from error
    content = (file.metadata.metadata or {}).get(CONTENT_KEY.encode(), b"").decode()
    for entry in having:
        if entry.objects[table].content == content:
            return OpenObject(entry, entry.objects[table], file)
    raise ArchiveError(f"the manifest does not describe {path} in {place.shown}: {REMEDY}")


REMEDY = "delete the month from the manifest, or restore the file from a copy, and run `kraken-history archive` again"


def check_file(place: Place, described: ArchivedObject) -> None:
    """Compare the bytes of a file with its digest.

    Raises:
        ArchiveError: They differ, or there is no such file.
    """
    digest = hashlib.sha256()
    try:
        with place.open(described.path) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except FileNotFoundError as error:
        raise ArchiveError(f"{described.path} is missing in {place.shown}: {REMEDY}") from error
    if digest.hexdigest() != described.sha256:
        raise ArchiveError(
            f"{described.path} in {place.shown} is damaged: expected SHA-256 {described.sha256[:12]}…, got"
            f" {digest.hexdigest()[:12]}…: {REMEDY}"
        )


def content_of(table: TableName, file: ParquetFile) -> str:
    """The digest of the rows of a file."""
    digest = Digest(table)
    for rows in row_groups(file):
        digest.add(rows)
    return digest.hex()


def row_groups(file: ParquetFile, columns: list[str] | None = None) -> Iterator["pyarrow.Table"]:
    """The rows of a file, a row group at a time."""
    for number in range(file.num_row_groups):
        yield file.read_row_group(number, columns=columns)
