"""The manifest of a symbol: which files its archive has, what they hold, and what is proven about them. No I/O."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct, field

from kraken_history.errors import HistoryError
from kraken_history.intervals import Span
from kraken_history.ledger import IdRange, IdRanges
from kraken_history.months import Month

FORMAT = 1
"""Version of the archive's format. Files of another version are refused."""

MARKER = "archive.json"
"""The file that makes a folder an archive."""

TableName = Literal["candles_1m", "trades"]
TABLES: tuple[TableName, ...] = ("candles_1m", "trades")


class ArchiveError(HistoryError):
    """The archive cannot be used, or does not hold what its manifest says."""


class Marker(Struct, frozen=True):
    """The content of :data:`MARKER`."""

    kraken_history_archive: int


class ArchivedObject(Struct, frozen=True, forbid_unknown_fields=True):
    """One file.

    Attributes:
        path: Relative to the archive.
        sha256: Of the file.
        content: Digest of the rows, whatever the file's encoding.
        first, last: Times of the first and the last row; None if there is none.
        sums: Exact sums by column.
        sources: Number of candles by source; empty for trades.
    """

    path: str
    bytes: int
    sha256: str
    content: str
    rows: int
    first: datetime | None
    last: datetime | None
    sums: Mapping[str, Decimal]
    sources: Mapping[str, int] = {}


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One month, from one snapshot of the database.

    Attributes:
        version: Version of the month in the database.
        schema: Last migration of the database.
        objects: By table. A table of which retention had dropped rows before they were archived is left out.
        held: Ids of the trades.
        absent: Ids that Kraken was shown not to have, from the last trade of the month before to the last of this one.
        proven: Time for which the ledger proves that all trades are stored.
        covered_trades, covered_candles: Time that Kraken was asked about.
        contested: Minutes whose candle waits for a proof.
        is_complete: False until its files are in place.
    """

    version: UUID
    schema: str
    written_at: datetime
    objects: Mapping[TableName, ArchivedObject]
    held: Sequence[IdRange]
    absent: Sequence[IdRange]
    proven: Sequence[Span]
    covered_trades: Sequence[Span]
    covered_candles: Sequence[Span]
    contested: Sequence[datetime] = ()
    is_complete: bool = True

    @property
    def ids(self) -> IdRanges:
        """Ids of the trades."""
        return IdRanges(self.held)


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """All months of one symbol.

    Attributes:
        months: By month, such as ``2025-11``: one entry; two while the month is being replaced, the newer one last.
    """

    symbol: str
    months: Mapping[str, Sequence[Entry]] = field(default_factory=dict)

    def entries(self, month: Month) -> Sequence[Entry]:
        """The entries of a month; none if it is not archived."""
        return self.months.get(str(month), ())

    def settled(self, month: Month) -> Entry | None:
        """The entry of a month that is archived and not being replaced; otherwise None."""
        entries = self.entries(month)
        return entries[0] if len(entries) == 1 and entries[0].is_complete else None

    def latest(self, month: Month) -> Entry | None:
        """The only entry of a month, or the newer one; None if it is not archived."""
        entries = self.entries(month)
        return entries[-1] if entries else None

    @property
    def known_months(self) -> list[Month]:
        """The months, oldest first."""
        return sorted(map(Month.parse, self.months))

    def having(self, month: Month, entries: Sequence[Entry]) -> "Manifest":
        """This manifest with other entries of one month."""
        months = {**self.months, str(month): entries}
        return Manifest(self.symbol, {name: months[name] for name in sorted(months)})

    def last_id_before(self, month: Month) -> int | None:
        """The highest id of all earlier months; None if they have no trade."""
        earlier = [self.months[str(each)][-1].ids for each in self.known_months if each < month]
        return max((stop - 1 for ids in earlier for _, stop in ids), default=None)


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def decode(data: bytes, path: str) -> Manifest:
    """The manifest of these bytes.

    Raises:
        ArchiveError: They are not a manifest of this version.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
        manifest.known_months  # noqa: B018 — raises if a month is not one
    except (msgspec.MsgspecError, ValueError) as error:
        raise ArchiveError(f"expected a manifest of format {FORMAT} in {path}, got another file ({error})") from error
    return manifest


def folder_of(symbol: str) -> str:
    """The name of a symbol's folder, and of its manifest: ``symbol=BTC-USDT``."""
    return f"symbol={symbol.replace('/', '-')}"


def manifest_path(symbol: str) -> str:
    """The path of a symbol's manifest, relative to the archive."""
    return f"manifest/{folder_of(symbol)}.json"


def object_path(table: TableName, symbol: str, month: Month) -> str:
    """The path of a month's file, relative to the archive."""
    return f"{table}/{folder_of(symbol)}/month={month}.parquet"
