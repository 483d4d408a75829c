"""CryptoDataDownload's files of Kraken's candles, read as if they were Kraken's.

Their first line has the site's address, the second the names of the columns; the newest candle comes first. The unit
is in the name: ``Kraken_BTCUSD_minute.csv``, ``_1h``, ``_d``. The symbol is a column. Times are in seconds or
milliseconds.

Such a file is turned around while it is read: :meth:`TurnedFile.blocks` yields Kraken's columns, the oldest first.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from math import gcd
from typing import BinaryIO

from msgspec import Struct

from kraken_history.csv_import.names import Content
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import CsvFile

_SITE = b"cryptodatadownload"
_BLOCK = 1 << 16
_NAME = re.compile(
    r"(?P<exchange>[A-Za-z]+)_(?P<pair>[A-Za-z0-9]+)(?:_\d{4})?_(?P<unit>minute|1min|1m|1hr?|hour|h|1d|day|daily|d)\.csv",
    re.IGNORECASE | re.ASCII,
)
_UNITS = {"m": 1, "h": 60, "d": 1440}
_NEEDED = ("unix", "symbol", "open", "high", "low", "close", "volume")
_MILLISECONDS = re.compile(rb"(\d{10})000", re.ASCII)


class Columns(Struct, frozen=True):
    """Where a file has what.

    Attributes:
        count: Number of columns.
        numbers: Open, high, low, close and the volume in the base asset.
        trades: The number of trades; None if the file does not say it.
    """

    count: int
    time: int
    symbol: int
    numbers: tuple[int, ...]
    trades: int | None


class TurnedFile(Struct, frozen=True):
    """A file of CryptoDataDownload, as one of Kraken's.

    Attributes:
        content: The symbol in place of Kraken's name of the pair, and the interval.
        lines: Number of lines.
        rows: Number of lines with a candle: those after the names of the columns.
    """

    file: CsvFile
    content: Content
    columns: Columns
    lines: int
    rows: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.file.name

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.file.size

    def blocks(self) -> Iterator[bytes]:
        """Lines with Kraken's columns, the oldest candle first, in blocks.

        A file that does not say how many trades a candle has is given 1, the least that its volume proves.

        Raises:
            CsvError: The file cannot be read or unpacked.
        """
        with ExitStack() as stack:
            rows = islice(_lines_backwards(_seekable(self.file, stack)), self.rows)
            block: list[bytes] = []
            for row in rows:
                block.append(self._turned(row))
                if len(block) == _BLOCK // 64:
                    yield b"".join(block)
                    block.clear()
            if block:
                yield b"".join(block)

    def own_line(self, line: int) -> int:
        """The number that a line of :meth:`blocks` has in the file."""
        return self.lines + 1 - line

    def _turned(self, row: bytes) -> bytes:
        values = row.split(b",")
        numbers = [values[at] for at in self.columns.numbers]
        if self.columns.trades is None:
            trades = b"0" if not numbers[-1].strip(b"0.") else b"1"
        else:
            trades = values[self.columns.trades].removesuffix(b".0")
        return b",".join([_seconds(values[self.columns.time]), *numbers, trades]) + b"\n"


def is_of_the_site(file: CsvFile) -> bool:
    """True if the first line has the site's address, or its names of columns.

    Raises:
        CsvError: The file cannot be read.
    """
    head = next(file.blocks(), b"").split(b"\n", 2)
    return _SITE in head[0].lower() or _columns_of(head[0]) is not None


def pair_of(file: str) -> str | None:
    """The pair in the name of one of the site's files, as it stands there; None for other names."""
    match = _NAME.fullmatch(file.rpartition("/")[2])
    return match["pair"] if match else None


def turned(file: CsvFile, *, any_pair: bool) -> TurnedFile:
    """Read the file once, check its order, and find its symbol, interval and columns.

    Args:
        any_pair: True if the symbol is given, so that the name need not say that the file is of Kraken.

    Raises:
        CsvError: The file is of another exchange, or not valid.
    """
    name = _NAME.fullmatch(file.name.rpartition("/")[2])
    if (name is None and not any_pair) or (name is not None and name["exchange"].lower() != "kraken"):
        raise CsvError(
            file.name, None, "expected a name like Kraken_BTCUSD_minute.csv for a file of CryptoDataDownload: rename it"
        )
    survey = _Survey(file.name)
    for block in file.blocks():
        survey.read(block.replace(b"\r\n", b"\n").split(b"\n")[:-1])
    if survey.columns is None or not survey.rows:
        raise CsvError(file.name, None, "the file has no rows: download it again")
    unit = None if name is None else _UNITS[name["unit"].lower().removeprefix("1")[0]]
    content = Content(survey.symbol, _interval(file.name, unit, survey))
    return TurnedFile(file, content, survey.columns, survey.lines, survey.rows)


class _Survey:
    """What all lines of a file say together."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.lines = self.rows = self.step = 0
        self.symbol = ""
        self.columns: Columns | None = None
        self._before = 0

    def read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.lines += 1
            if self.columns is not None:
                self._row(line, self.columns)
            elif _SITE not in line.lower():
                self.columns = _columns_of(line)
                if self.columns is None:
                    raise self._fault(f"expected a line with the columns {', '.join(_NEEDED)}: download the file again")

    def _row(self, line: bytes, columns: Columns) -> None:
        values = line.split(b",")
        if len(values) != columns.count:
            raise self._fault(f"expected {columns.count} columns, got {len(values)}")
        seconds, symbol = _seconds(values[columns.time]), values[columns.symbol].decode("ascii", "replace")
        if not seconds.isdigit():
            raise self._fault(f"time {seconds.decode('ascii', 'replace')!r} is not a unix time")
        time = int(seconds)
        if self.rows and time >= self._before:
            raise self._fault(f"time {time} must be before the time of the previous line, {self._before}")
        if self.rows and symbol != self.symbol:
            raise self._fault(f"expected the symbol of the lines before, {self.symbol}, got {symbol!r}")
        self.rows += 1
        self.symbol, self._before, self.step = symbol, time, gcd(self.step, time)

    def _fault(self, reason: str) -> CsvError:
        return CsvError(self._file, self.lines, reason)


def _interval(file: str, named: int | None, survey: _Survey) -> int:
    """The interval in minutes; the times decide, and the name must not contradict them."""
    found = next((minutes for minutes in (1440, 60) if survey.step % (60 * minutes) == 0), 1)
    if survey.rows > 1 and named is not None and named != found:
        raise CsvError(file, None, f"expected times {named} minute(s) apart, as the name says, got {found}: rename it")
    if survey.rows == 1 and named is None:
        raise CsvError(file, None, "expected the unit in the name, such as Kraken_BTCUSD_minute.csv: rename it")
    return found if named is None else named


def _columns_of(header: bytes) -> Columns | None:
    """The columns that a header names; None if they are not the site's."""
    names = [name.strip(' "').lower() for name in header.decode("ascii", "replace").strip().split(",")]
    places = {name.removesuffix(" timestamp").replace(" ", ""): at for at, name in reversed(list(enumerate(names)))}
    volumes = [at for at, name in enumerate(names) if name.startswith("volume")]
    if volumes:
        places["volume"] = volumes[0]  # the base asset's comes first
    if not all(name in places for name in _NEEDED):
        return None
    trades = places.get("tradecount")
    return Columns(len(names), places["unix"], places["symbol"], tuple(places[name] for name in _NEEDED[2:]), trades)


def _seconds(stamp: bytes) -> bytes:
    """A time in seconds, if it is in whole milliseconds or has a decimal point; otherwise as it is."""
    stamp = stamp.removesuffix(b".0")
    match = _MILLISECONDS.fullmatch(stamp)
    return match[1] if match else stamp


def _seekable(file: CsvFile, stack: ExitStack) -> BinaryIO:
    """The file, or a temporary copy of a member of a zip."""
    if file.archive is None:
        return stack.enter_context(file.path.open("rb"))
    copy: BinaryIO = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 — the stack closes it
    for block in file.blocks():
        copy.write(block)
    return copy


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, the last first, without their newlines."""
    at, rest = file.seek(0, 2), b""
    while at:
        start = max(0, at - _BLOCK)
        file.seek(start)
        lines = (file.read(at - start) + rest).split(b"\n")
        at, rest = start, lines[0]
        yield from (line.removesuffix(b"\r") for line in reversed(lines[1:]) if line)
    if rest:
        yield rest.removesuffix(b"\r")
