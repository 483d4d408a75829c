"""Lines into candles, and each wrong line by its number and what is wrong with it."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kraken_history.csv_import import CandleReader, Candles, CsvError, CsvFile, TradeReader
from kraken_history.csv_import.rows import candle_fault, trade_fault
from tests.support.csv_files import START_S, candle_line, column_sum, trade_line

GOOD_CANDLE, GOOD_TRADE = candle_line(0), trade_line(0)
T = START_S

# Appended to a good first line; None stands for a file that is right.
CANDLE_LINES: dict[str, tuple[str, str | None]] = {
    "scientific notation": (f"{T + 60},100.0,102.0,99.0,101.5,1E+1,3", None),
    "lower case": (f"{T + 60},100.0,102.0,99.0,101.5,5.5e-2,3", None),
    "a missing minute": (f"{T + 600},100,102,99,101,1,3", None),
    "a quiet minute of a negative price": (f"{T + 60},-1,1,1,1,0,0", "open '-1' is not positive"),
    "a quiet minute with volume": (f"{T + 60},1,1,1,1,0.1,0", "expected 1 to 2147483647 as trades, got '0'"),
    "trades without volume": (f"{T + 60},1,1,1,1,0,3", "volume '0' is not positive"),
    "a flat minute": (f"{T + 60},1,1,1,1,0.00000001,1", None),
    "too few columns": (f"{T + 60},100.0,102.0", "got 3"),
    "too many columns": (f"{T + 60},100.0,102.0,99.0,101.5,2.5,101.0,3", "got 8"),
    "an empty line": ("", "got 0"),
    "a repeated time": (candle_line(0), "must be after the time of the previous line"),
    "an earlier time": (candle_line(-1), "must be after the time of the previous line"),
    "a time within a minute": (f"{T + 61},100.0,102.0,99.0,101.5,2.5,3", "is not the start of a minute"),
    "milliseconds": (f"{T + 60}000,100.0,102.0,99.0,101.5,2.5,3", "is it in milliseconds?"),
    "a date": ("2023-01-01,100.0,102.0,99.0,101.5,2.5,3", "time '2023-01-01' is not a unix time in seconds"),
    "a time with decimals": (f"{T + 60}.0,100.0,102.0,99.0,101.5,2.5,3", "is not a unix time in seconds"),
    "a header further down": ("time,open,high,low,close,volume,trades", "time 'time' is not a number"),
    "a negative price": (f"{T + 60},-100.0,102.0,-101,101.5,2.5,3", "open '-100.0' is not positive"),
    "a negative volume": (f"{T + 60},100.0,102.0,99.0,101.5,-2.5,3", "volume '-2.5' is not positive"),
    "a price of zero": (f"{T + 60},100.0,102.0,0,101.5,2.5,3", "low '0' is not positive"),
    "not a number": (f"{T + 60},100.0,NaN,99.0,101.5,2.5,3", "high 'NaN' is not a number"),
    "infinity": (f"{T + 60},100.0,Infinity,99.0,101.5,2.5,3", "high 'Infinity' is not a number"),
    "two points": (f"{T + 60},100.0,10.2.0,99.0,101.5,2.5,3", "high '10.2.0' is not a number"),
    "nothing": (f"{T + 60},100.0,,99.0,101.5,2.5,3", "high '' is not a number"),
    "too large": (f"{T + 60},100.0,1E+31,99.0,101.5,2.5,3", "high '1E+31' is too large"),
    "far too large": (f"{T + 60},100.0,1E+999999999,99.0,101.5,2.5,3", "high '1E+999999999' is too large"),
    "columns in another order": (f"{T + 60},99.0,100.0,102.0,101.5,2.5,3", "do not enclose open and close"),
    "no trades": (f"{T + 60},100.0,102.0,99.0,101.5,2.5,0", "expected 1 to 2147483647 as trades, got '0'"),
    "trades that are none": (f"{T + 60},100.0,102.0,99.0,101.5,2.5,3.0", "trades '3.0' is not a whole number"),
    "too many trades": (f"{T + 60},100.0,102.0,99.0,101.5,2.5,9999999999", "expected 1 to 2147483647 as trades"),
    "a space": (f"{T + 60}, 100.0,102.0,99.0,101.5,2.5,3", "open ' 100.0' is not a number"),
    "a semicolon": (f"{T + 60};100.0;102.0;99.0;101.5;2.5;3", "expected commas between the columns, got semicolons"),
    "tabs": (f"{T + 60}\t100.0\t102.0\t99.0\t101.5\t2.5\t3", "expected commas between the columns, got tabs"),
    "a column too few": (f"{T + 60},100.0,102.0,99.0,101.5,2.5", "got 6"),
    "prose": ("This is a note", "expected numbers separated by commas"),
    "a decimal comma": (f"{T + 60},100,0,102,0,99,0,101,5,2,5,3", "got 12"),
    "quotes": (f'"{T + 60}","100.0","102.0","99.0","101.5","2.5","3"', "is not a number"),
    "a long line": (f"{T + 60},100.{'0' * 200},102.0,99.0,101.5,2.5,3", "expected at most 150 characters"),
    "a carriage return at the end": (f"{T + 60},100.0,102.0,99.0,101.5,2.5,3\r", None),
    "a letter of another alphabet": (f"{T + 60},100.0,102.0,99.0,101.5,2.5,\u0663", "expected plain text (ASCII)"),
}  # fmt: skip

QUIET_LINES = {
    "a quiet minute at the last close": f"{T + 60},101.5,101.5,101.5,101.5,0,0",
    "a quiet minute of zeros": f"{T + 60},0,0,0,0,0.00000000,0",
    "a quiet minute of odd prices": f"{T + 60},102.0,102.0,99.0,100.0,0E-8,00",
}

TRADE_LINES: dict[str, tuple[str, str | None]] = {
    "the same trade again": (GOOD_TRADE, None),
    "scientific notation": (trade_line(1, "1E+2", "5E-8"), None),
    "a fraction of a second": (f"{T}.123456789,1,2", None),
    "an earlier time": (trade_line(-1), "is before the time of the previous line"),
    "candles": (candle_line(1), "got 7"),
    "a side too many": (f"{T},1,2,b", "expected 3 columns (time, price, volume), got 4"),
    "a negative price": (trade_line(1, "-1.0"), "price '-1.0' is not positive"),
    "a volume of zero": (trade_line(1, "1.0", "0.00000000"), "volume '0.00000000' is not positive"),
    "not a number": (trade_line(1, "nan"), "price 'nan' is not a number"),
    "a time in scientific notation": (f"{T}.5E0,1,2", "is not a unix time in seconds"),
    "milliseconds": (f"{T}000,1,2", "is it in milliseconds?"),
}


def read_candles(lines: Sequence[str]) -> Candles:
    return CandleReader("XBTUSDT_1.csv").read("".join(line + "\n" for line in lines).encode())


def read_trades(*blocks: Sequence[str]) -> list[Candles]:
    reader = TradeReader("XBTUSDT.csv")
    candles = [reader.read("".join(line + "\n" for line in block).encode()) for block in blocks]
    last = reader.finish()
    assert last is not None
    return [*candles, last]


@pytest.mark.parametrize(("line", "reason"), CANDLE_LINES.values(), ids=CANDLE_LINES)
def test_a_line_of_candles(line: str, reason: str | None) -> None:
    if reason is None:
        assert len(read_candles([GOOD_CANDLE, line]).times) == 2
        return

    with pytest.raises(CsvError) as refusal:
        read_candles([GOOD_CANDLE, line, candle_line(9)])

    assert refusal.value.line == 2
    assert refusal.value.file == "XBTUSDT_1.csv"
    assert reason in refusal.value.reason
    assert str(refusal.value) == f"XBTUSDT_1.csv:2: {refusal.value.reason}"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("line", QUIET_LINES.values(), ids=QUIET_LINES)
def test_a_line_of_a_quiet_minute_makes_no_candle(line: str) -> None:
    reader = CandleReader("XBTUSDT_1.csv")

    candles = reader.read(f"{GOOD_CANDLE}\n{line}\n{candle_line(2)}\n".encode())
    none = reader.read(f"{line.replace(str(T + 60), str(T + 180))}\n".encode())

    assert candles.times == [T, T + 120]
    assert candles.trade_counts == ["3", "3"]
    assert none.times == []
    assert (reader.rows, reader.first, reader.last) == (4, T, T + 180)


@pytest.mark.parametrize(("line", "reason"), TRADE_LINES.values(), ids=TRADE_LINES)
def test_a_line_of_trades(line: str, reason: str | None) -> None:
    if reason is None:
        assert read_trades([GOOD_TRADE, line])[-1].trade_counts == ["2"]
        return

    with pytest.raises(CsvError) as refusal:
        read_trades([GOOD_TRADE], [GOOD_TRADE, line])

    assert refusal.value.line == 3
    assert reason in refusal.value.reason


def test_an_encoding_of_two_bytes_is_refused_in_the_first_line() -> None:
    for encoding in ("utf-16", "utf-16-le"):
        with pytest.raises(CsvError, match=r"^a:1: expected plain text"):
            CandleReader("a").read(f"{GOOD_CANDLE}\n".encode(encoding) + b"\n")


@pytest.mark.parametrize(
    "header",
    [
        "time,open,high,low,close,volume,trades",
        '"Time","Open","High","Low","Close","Volume","Count"',
        "timestamp, open, high, low, close, volume (BTC), trades",
        "\ufefftime,open,high,low,close,volume,trades",
    ],
)
def test_a_header_in_the_first_line_is_passed_over(header: str) -> None:
    reader = CandleReader("a")

    candles = reader.read(f"{header}\r\n{GOOD_CANDLE}\r\n".encode())

    assert (candles.times, reader.rows, reader.lines) == ([START_S], 1, 2)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("time,open,high,low,close,vwap,volume,trades", r"expected 7 columns \(.*\), got 8"),
        ("time,low,high,open,close,volume,trades", "expected 'open' as column 2, got 'low'"),
        ("time,open,high,low,close,trades,volume", "expected 'volume' as column 6, got 'trades'"),
    ],
)
def test_a_header_of_other_columns_is_refused(header: str, reason: str) -> None:
    with pytest.raises(CsvError, match=f"^a:1: {reason}"):
        CandleReader("a").read(f"{header}\n{GOOD_CANDLE}\n".encode())


def test_lines_are_counted_past_a_header_and_over_blocks() -> None:
    reader = CandleReader("a")
    reader.read(f"time,open,high,low,close,volume,trades\n{GOOD_CANDLE}\n".encode())

    with pytest.raises(CsvError, match=r"^a:4: trades 'x' is not a number"):
        reader.read(f"{candle_line(1)}\n{candle_line(2)[:-1]}x\n".encode())


def test_a_minute_of_trades_may_lie_in_several_blocks() -> None:
    whole = read_trades([trade_line(n, f"{100 + n}.0", "0.1") for n in range(0, 130, 5)])
    parts = read_trades(*[[trade_line(n, f"{100 + n}.0", "0.1")] for n in range(0, 130, 5)])

    def rows(batches: list[Candles]) -> list[tuple[object, ...]]:
        return [
            row
            for c in batches
            for row in zip(c.times, c.opens, c.highs, c.lows, c.closes, c.volumes, c.vwaps, strict=True)
        ]

    assert rows(whole) == rows(parts)
    assert [row[1:6] for row in rows(whole)] == [
        ("100.0", "155.0", "100.0", "155.0", "1.2"),
        ("160.0", "215.0", "160.0", "215.0", "1.2"),
        ("220.0", "225.0", "220.0", "225.0", "0.2"),
    ]


def test_a_recorded_file_of_longer_candles_can_be_read(recordings: Path) -> None:
    path = recordings / "csv/XBTUSD_60.csv"
    reader = CandleReader(path.name, interval_minutes=60)

    batches = [reader.read(block) for block in CsvFile(path.name, path.stat().st_size, path).blocks()]

    assert reader.rows == sum(len(candles.times) for candles in batches) == 70_253
    assert sum(Decimal(volume) for candles in batches for volume in candles.volumes) == column_sum(path, 5)
    assert sum(int(count) for candles in batches for count in candles.trade_counts) == column_sum(path, 6)


def test_longer_candles_must_start_where_their_interval_does() -> None:
    with pytest.raises(CsvError, match=r"^a:2: time 1672531260 is not the start of 60 minutes"):
        CandleReader("a", interval_minutes=60).read(f"{GOOD_CANDLE}\n{candle_line(1)}\n".encode())


digits = st.text("0123456789", min_size=1, max_size=4)
fields = st.one_of(
    digits,
    st.builds("{}.{}".format, digits, digits),
    st.builds("{}E{}{}".format, digits, st.sampled_from(["+", "-", ""]), digits),
    st.text("0123456789.Ee+-", max_size=6),
    st.sampled_from(["", "NaN", "1", "100", "1E-31", "1E+30"]),
)
times = st.one_of(st.integers(0, 9).map(lambda n: str(START_S + 30 * n)), fields)


@given(st.lists(st.tuples(times, fields, fields, fields, fields, fields, fields).map(",".join), max_size=5))
@example([f"+{str(START_S)[1:]},1,1,1,1,1,1"])
@example([f"0{str(START_S)[1:]},1,1,1,1,1,1"])
@example([f"{START_S},1,1,1,1,1,1", f"{START_S + 60},0,0,0,0,0,0", f"{START_S + 60},1,1,1,1,1,1"])
def test_candles_are_taken_exactly_if_each_line_is_right(lines: list[str]) -> None:
    before, right = 0, True
    for line in lines:
        right = right and candle_fault(line, before, 60) is None
        before = int(line.partition(",")[0]) if right else before

    if right:
        traded = [line for line in lines if int(line.rpartition(",")[2])]
        assert len(read_candles(lines).times) == len(traded)
    else:
        with pytest.raises(CsvError):
            read_candles(lines)


@given(st.lists(st.tuples(times, fields, fields).map(",".join), min_size=1, max_size=5))
def test_trades_are_taken_exactly_if_each_line_is_right(lines: list[str]) -> None:
    before, right = Decimal(0), True
    for line in lines:
        right = right and trade_fault(line, before) is None
        before = Decimal(line.partition(",")[0]) if right else before

    if right:
        assert sum(int(count) for candles in read_trades(lines) for count in candles.trade_counts) == len(lines)
    else:
        with pytest.raises(CsvError):
            read_trades(lines)
