"""Lines of Kraken's downloads → candles. Bytes in, columns out; no I/O.

Blocks of whole lines are parsed column by column, because that is fast. If a block is not valid, its lines are
checked one by one to report the first fault: :func:`candle_fault` and :func:`trade_fault` define a valid line.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import compress, groupby
from operator import gt, itemgetter, le, mul, sub
from typing import ClassVar

from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.sources import LONGEST_LINE, NO_TABLE, TOO_LONG
from kraken_history.records import EXACT, VWAP_DECIMALS, truncated_vwap
from kraken_history.storing.candle_text import Candles

MINUTE_S = 60
CANDLE_FIELDS = ("time", "open", "high", "low", "close", "volume", "trades")
TRADE_FIELDS = ("time", "price", "volume")

_ALLOWED = b"0123456789.,Ee+-\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEADER_FIELD = re.compile(r"[A-Za-z_][\w ()/]*", re.ASCII)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_SYNONYMS = {"timestamp": "time", "date": "time", "unixtime": "time", "count": "trades", "amount": "volume"}

# As in kraken.numbers: wider than any market, and values computed from them stay exact.
_SMALLEST = Decimal("1e-30")
_LARGEST = Decimal("1e30")
_MOST_TRADES = 2**31 - 1

# Ten digits: seconds from 2001 on. Kraken's downloads have whole seconds; later ones may have decimals.
_CANDLE_TIME = re.compile(r"[1-9]\d{9}", re.ASCII)
_FIRST_OF_TEN_DIGITS = 10**9
_TRADE_TIME = re.compile(r"[1-9]\d{9}(?:\.\d*)?", re.ASCII)

_SHIFT = Decimal(10) ** VWAP_DECIMALS
_UNSHIFT = Decimal(10) ** -VWAP_DECIMALS


class CandleReader:
    """Reads candles, block by block; raises :class:`CsvError` at the first line that is not valid.

    Args:
        file: Name for the error.
        interval_minutes: Interval of the candles.
        lines: Number of lines of the file before the first block.

    A minute without a trade may be absent, or have a line whose volume and trades are 0. Such a line makes no candle.

    Attributes:
        lines: Lines of the file so far, those before the first block included.
        rows: Lines read, without a header.
        first: Time of the first row's candle, in unix seconds, whether it has trades or not; None before that row.
        last: Time of the candle of the last row so far.
    """

    fields: ClassVar[Sequence[str]] = CANDLE_FIELDS

    def __init__(self, file: str, *, interval_minutes: int = 1, lines: int = 0) -> None:
        self._file = file
        self._step_s = interval_minutes * MINUTE_S if interval_minutes <= 1440 else MINUTE_S
        self.lines = lines
        self._before: Decimal | int = 0
        self.rows = 0
        self.first: int | None = None
        self.last: int | None = None

    def read(self, block: bytes) -> Candles:
        """The candles of the next block."""
        block = self._without_header(_with_plain_newlines(block))
        lines = block.count(b"\n")
        try:
            with localcontext(EXACT):
                candles = self._columns(block)
        except (ValueError, ArithmeticError):
            raise self._fault(block) from None
        self.lines += lines
        self.rows += lines
        return candles

    def finish(self) -> Candles | None:
        """Return the remaining candles after the last block; None if there are none."""
        return None

    def _columns(self, block: bytes) -> Candles:
        columns = _split(block, len(CANDLE_FIELDS))
        if not columns:
            return _candles_of([])
        stamps = columns[0]
        _insist(set(map(len, stamps)) == {10} and "".join(stamps).isdigit())  # as _CANDLE_TIME, in half the time
        times = list(map(int, stamps))
        _insist(times[0] > max(self._before, _FIRST_OF_TEN_DIGITS - 1) and all(map(gt, times[1:], times)))
        _insist(not any([time % self._step_s for time in times]))
        candles = self._candles(times, *columns[1:])
        self._before = times[-1]
        self._saw(times)
        return candles

    def _candles(
        self,
        times: list[int],
        opens: list[str],
        highs: list[str],
        lows: list[str],
        closes: list[str],
        volumes: list[str],
        counts: list[str],
    ) -> Candles:
        trades = list(map(int, counts))
        if 0 in trades:
            columns = [opens, highs, lows, closes, volumes, counts]
            times, columns = _without_quiet(times, columns, trades)
            return self._candles(times, *columns)
        if not times:
            return _candles_of([])
        o, h, l, c, v = (list(map(Decimal, column)) for column in (opens, highs, lows, closes, volumes))  # noqa: E741
        _insist(min(l) > _SMALLEST and max(h) < _LARGEST and min(v) > _SMALLEST and max(v) < _LARGEST)
        _insist(all(map(le, l, o)) and all(map(le, l, c)) and all(map(le, o, h)) and all(map(le, c, h)))
        _insist(min(trades) > 0 and max(trades) <= _MOST_TRADES)
        vwaps = [(high + low + close) * _SHIFT // 3 * _UNSHIFT for high, low, close in zip(h, l, c, strict=True)]
        quote_volumes = list(map(str, map(mul, v, vwaps)))
        return Candles(times, opens, highs, lows, closes, volumes, quote_volumes, counts, list(map(str, vwaps)))

    def _saw(self, times: Sequence[int]) -> None:
        self.first = times[0] if self.first is None else self.first
        self.last = times[-1]

    def _fault(self, block: bytes) -> CsvError:
        return self._first_fault(block, lambda line, before: candle_fault(line, before, self._step_s))

    def _first_fault(self, block: bytes, fault_of: Callable[[str, Decimal | int], str | None]) -> CsvError:
        before: Decimal | int = self._before
        for number, line in enumerate(block.split(b"\n")[:-1], self.lines + 1):
            fault = _text_fault(line, self.fields) or fault_of(line.decode(), before)
            if fault is not None:
                return CsvError(self._file, number, fault)
            before = Decimal(line.decode().partition(",")[0])
        raise AssertionError(
            f"{self._file}: the block after line {self.lines} was refused, but each of its lines is valid"
        )

    def _without_header(self, block: bytes) -> bytes:
        if self.lines:
            return block
        block = block.removeprefix(_BYTE_ORDER_MARK)
        first, _, rest = block.partition(b"\n")
        names = header_names(first)
        if names is None:
            return block
        fault = header_fault(names, self.fields)
        if fault is not None:
            raise CsvError(self._file, 1, fault)
        self.lines = 1
        return rest


class TradeReader(CandleReader):
    """Reads time and sales, and builds one-minute candles: every row is a trade, even if it equals another.

    A candle is returned once the first trade of a later minute has been read.
    """

    fields: ClassVar[Sequence[str]] = TRADE_FIELDS

    def __init__(self, file: str, *, lines: int = 0) -> None:
        super().__init__(file, lines=lines)
        self._minute: _Minute | None = None

    def _columns(self, block: bytes) -> Candles:
        columns = _split(block, len(TRADE_FIELDS))
        if not columns:
            return _candles_of([])
        _insist(all(map(_TRADE_TIME.fullmatch, columns[0])))
        times, prices, volumes = (list(map(Decimal, column)) for column in columns)
        _insist(times[0] >= self._before and all(map(le, times, times[1:])))
        _insist(min(prices) > _SMALLEST and max(prices) < _LARGEST)
        _insist(min(volumes) > _SMALLEST and max(volumes) < _LARGEST)
        self._before = times[-1]
        seconds = list(map(int, times))
        minutes = list(map(sub, seconds, [second % MINUTE_S for second in seconds]))
        self._saw(minutes)
        return _candles_of(list(self._completed(zip(minutes, prices, volumes, strict=True))))

    def finish(self) -> Candles | None:
        """The candle of the last minute."""
        return None if self._minute is None else _candles_of([self._minute])

    def _completed(self, trades: Iterable[tuple[int, Decimal, Decimal]]) -> "Iterator[_Minute]":
        for minute, group in groupby(trades, itemgetter(0)):
            _, prices, volumes = zip(*group, strict=True)
            if self._minute is not None and self._minute.time == minute:
                self._minute.add(prices, volumes)
                continue
            if self._minute is not None:
                yield self._minute
            self._minute = _Minute(minute, prices, volumes)

    def _fault(self, block: bytes) -> CsvError:
        return self._first_fault(block, trade_fault)


class _Minute:
    """The candle of one minute, built from its trades in their order."""

    __slots__ = ("close", "count", "high", "low", "open", "quote_volume", "time", "volume")

    def __init__(self, time: int, prices: Sequence[Decimal], volumes: Sequence[Decimal]) -> None:
        self.time = time
        self.open = self.high = self.low = prices[0]
        self.volume = self.quote_volume = Decimal(0)
        self.count = 0
        self.add(prices, volumes)

    def add(self, prices: Sequence[Decimal], volumes: Sequence[Decimal]) -> None:
        self.high = max(self.high, *prices)
        self.low = min(self.low, *prices)
        self.close = prices[-1]
        self.volume += sum(volumes)
        self.quote_volume += sum(map(mul, prices, volumes))
        self.count += len(prices)


def _candles_of(minutes: Sequence[_Minute]) -> Candles:
    return Candles(
        [m.time for m in minutes],
        [str(m.open) for m in minutes],
        [str(m.high) for m in minutes],
        [str(m.low) for m in minutes],
        [str(m.close) for m in minutes],
        [str(m.volume) for m in minutes],
        [str(m.quote_volume) for m in minutes],
        [str(m.count) for m in minutes],
        [str(truncated_vwap(m.quote_volume, m.volume)) for m in minutes],
    )


def _without_quiet(
    times: list[int], columns: list[list[str]], trades: Sequence[int]
) -> tuple[list[int], list[list[str]]]:
    """The rows that have trades. The others have no volume either, and any prices: the last close, or zeros."""
    is_traded = [count != 0 for count in trades]
    is_quiet = [count == 0 for count in trades]
    *prices, volumes = [[Decimal(text) for text in compress(column, is_quiet)] for column in columns[:-1]]
    _insist(not any(volumes))
    _insist(all(min(column) >= 0 and max(column) < _LARGEST for column in prices))
    return list(compress(times, is_traded)), [list(compress(column, is_traded)) for column in columns]


def candle_fault(line: str, before: Decimal | int, step_s: int) -> str | None:
    """Return why the line is not a valid candle after one of time ``before``; None if it is valid."""
    stamp, *numbers, count = line.split(",")
    fault = _time_fault(stamp, _CANDLE_TIME)
    if fault is None and int(stamp) % step_s:
        fault = f"time {stamp} is not the start of {_interval(step_s)}"
    if fault is None and int(stamp) <= before:
        fault = f"time {stamp} must be after the time of the previous line, {before}"
    if fault is None and _is_quiet(numbers, count):
        return None
    for name, text in zip(CANDLE_FIELDS[1:-1], numbers, strict=True):
        fault = fault or _number_fault(name, text)
    if fault is not None:
        return fault
    open_, high, low, close, _ = map(Decimal, numbers)
    if not low <= min(open_, close) <= max(open_, close) <= high:
        return "low and high do not enclose open and close: check the order of the columns"
    return _count_fault(count)


def _is_quiet(numbers: Sequence[str], count: str) -> bool:
    """True for a minute without a trade: no volume and no trades, and prices that are numbers."""
    try:
        *prices, volume = map(Decimal, numbers)
        return int(count) == 0 and volume == 0 and all(0 <= price < _LARGEST for price in prices)
    except (ValueError, ArithmeticError):
        return False


def trade_fault(line: str, before: Decimal | int) -> str | None:
    """Return why the line is not a valid trade after one at the time ``before``; None if it is valid."""
    stamp, price, volume = line.split(",")
    fault = _time_fault(stamp, _TRADE_TIME)
    if fault is None and Decimal(stamp) < before:
        fault = f"time {stamp} is before the time of the previous line, {before}"
    return fault or _number_fault("price", price) or _number_fault("volume", volume)


def header_names(line: bytes) -> list[str] | None:
    """The column names of a header that somebody added; None if the first line is not a header."""
    try:
        names = [name.strip(' "') for name in line.decode("ascii").split(",")]
    except UnicodeDecodeError:
        return None
    return [name.lower() for name in names] if all(map(_HEADER_FIELD.fullmatch, names)) else None


def header_fault(names: Sequence[str], fields: Sequence[str]) -> str | None:
    """Return why these columns are not Kraken's; None if they may be. Unknown names are accepted."""
    if len(names) != len(fields) and not {_SYNONYMS.get(name, name) for name in names} & set(fields):
        return NO_TABLE
    if len(names) != len(fields):
        return f"expected {len(fields)} columns ({', '.join(fields)}), got {len(names)}"
    for at, name in enumerate(names):
        meant = _SYNONYMS.get(name, name)
        if meant in fields and fields[at] != meant:
            return f"expected {fields[at]!r} as column {at + 1}, got {name!r}"
    return None


def _with_plain_newlines(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n") if b"\r" in block else block


def _split(block: bytes, width: int) -> list[list[str]]:
    """The columns of a block; an empty list if it is empty."""
    _insist(not block.translate(None, _ALLOWED))
    lines = block.decode().split("\n")
    del lines[-1]
    if not lines:
        return []
    _insist(max(map(len, lines)) <= LONGEST_LINE)
    # One split for all lines. Each line's end is a field too: if every end is in its place, so are all other fields.
    fields = ",\n,".join(lines).split(",")
    fields.append("\n")
    ends = fields[width :: width + 1]
    _insist(len(ends) == len(lines) and set(ends) == {"\n"} and len(fields) == len(lines) * (width + 1))
    return [fields[at :: width + 1] for at in range(width)]


def _insist(holds: bool) -> None:
    if not holds:
        raise ValueError


def _text_fault(line: bytes, fields: Sequence[str]) -> str | None:
    """Return why the line cannot have these fields, whatever their values; None if it can."""
    if len(line) > LONGEST_LINE:
        return TOO_LONG
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        return "expected plain text (ASCII), got other bytes: save the file as ASCII, or download it again"
    if "\0" in text:
        return "expected plain text, got a zero byte: save the file as ASCII or UTF-8"
    count = text.count(",") + 1 if text else 0
    if count != len(fields):
        return _table_fault(text, len(fields)) or f"expected {len(fields)} columns ({', '.join(fields)}), got {count}"
    for name, value in zip(fields, text.split(","), strict=True):
        if value.encode().translate(None, _ALLOWED):
            return f"{name} {value!r} is not a number"
    return None


def _table_fault(text: str, width: int) -> str | None:
    """Return why a line with too few or too many commas is not a row of a table; None if it may be one."""
    for separator, name in _SEPARATORS.items():
        if text.count(separator) == width - 1:
            return f"expected commas between the columns, got {name}: save the file with commas, or download it again"
    return NO_TABLE if text and not text[0].isdigit() else None


def _time_fault(stamp: str, pattern: re.Pattern[str]) -> str | None:
    if pattern.fullmatch(stamp):
        return None
    hint = ": is it in milliseconds?" if stamp.isdecimal() and len(stamp) > 10 else ""
    return f"time {stamp!r} is not a unix time in seconds{hint}"


def _number_fault(name: str, text: str) -> str | None:
    try:
        number = Decimal(text)
        if _SMALLEST < number < _LARGEST:
            return None
    except ArithmeticError:
        return f"{name} {text!r} is not a number"
    return f"{name} {text!r} is not positive" if number <= _SMALLEST else f"{name} {text!r} is too large"


def _count_fault(text: str) -> str | None:
    try:
        count = int(text)
    except ValueError:
        return f"trades {text!r} is not a whole number"
    return None if 0 < count <= _MOST_TRADES else f"expected 1 to {_MOST_TRADES} as trades, got {text!r}"


def _interval(step_s: int) -> str:
    return "a minute" if step_s == MINUTE_S else f"{step_s // MINUTE_S} minutes"
