"""The time range of a file, determined before anything is written."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct

from kraken_history.csv_import.cryptodatadownload import TurnedFile
from kraken_history.csv_import.names import Content
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.rows import CandleReader, TradeReader
from kraken_history.csv_import.sources import CsvFile
from kraken_history.records import MINUTE

Phase = Literal["checking", "reading", "merging"]
"""What is done with a file, in this order. A file in whose time nothing is stored needs no merge."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_DAY = datetime(2011, 1, 1, tzinfo=UTC)  # Kraken opened later in that year
_CLOCK_SLACK = timedelta(days=1)


class Extent(Struct, frozen=True):
    """The first and the last minute of a file.

    Attributes:
        first: Open time of its first minute.
        last: Open time of its last minute.
    """

    first: datetime
    last: datetime

    @property
    def end(self) -> datetime:
        """The end of the last minute."""
        return self.last + MINUTE


def instant(seconds: int) -> datetime:
    """The aware UTC time of a unix time."""
    return _EPOCH + timedelta(seconds=seconds)


def reader_of(file: CsvFile | TurnedFile, content: Content, *, lines: int = 0) -> CandleReader:
    """Create the reader of this content; for ``lines`` see :class:`CandleReader`."""
    if content.interval_minutes is None:
        return TradeReader(file.name, lines=lines)
    return CandleReader(file.name, interval_minutes=content.interval_minutes, lines=lines)


def find_extent(
    file: CsvFile | TurnedFile,
    content: Content,
    is_given_up: Callable[[], bool] = lambda: False,
    told: Callable[[int], object] = lambda _: None,
) -> Extent:
    """Read the file once, to check that it is complete and can be unpacked, and parse its first and last line.

    Args:
        is_given_up: Called for each block, from this thread. True means that the caller no longer waits for the extent.
        told: Called for each block, from this thread, with the number of bytes read so far.

    Raises:
        CsvError: The file is incomplete, unreadable or not valid, its times are out of range, or the caller gave up.
    """
    head, tail, lines, done = b"", b"", 0, 0
    for block in file.blocks():
        if is_given_up():
            raise CsvError(file.name, None, "the file was not read to its end")
        head, tail = head or block, block
        lines += block.count(b"\n")
        done += len(block)
        told(done)
    if not lines:
        raise CsvError(file.name, 1, "the file is empty: download it again")
    reader = reader_of(file, content)
    reader.read(_first_two_lines(head))
    if reader.first is None or reader.last is None:
        raise CsvError(file.name, 1, "the file has no rows after its header: download it again")
    first_line = reader.lines - reader.rows + 1
    first, last = instant(reader.first), instant(reader.last)
    if lines > reader.lines:
        last = instant(_last_time(reader_of(file, content, lines=lines - 1), _last_line(tail)))
    if first < _FIRST_DAY:
        raise CsvError(file.name, first_line, f"{first:%Y-%m-%d} is before Kraken's first day")
    if last > datetime.now(UTC) + _CLOCK_SLACK:
        raise CsvError(file.name, lines, f"{last:%Y-%m-%d} is in the future")
    return Extent(first, last)


def _first_two_lines(block: bytes) -> bytes:
    """They include the first row, with or without a header."""
    return block[: block.find(b"\n", block.find(b"\n") + 1) + 1] or block


def _last_line(block: bytes) -> bytes:
    return block[block.rfind(b"\n", 0, -1) + 1 :]


def _last_time(reader: CandleReader, line: bytes) -> int:
    reader.read(line)
    assert reader.last is not None  # a line is a row or a fault
    return reader.last
