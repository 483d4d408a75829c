"""Finding files, and reading them whole or not at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.csv_import import Content, CsvError, CsvFile, content_of, found_files
from kraken_history.csv_import.extent import find_extent
from kraken_history.errors import UsageError
from tests.support.csv_files import START, START_S, candle_line, trade_line, write, write_zip

LINE = candle_line(0)


def only_refusal(path: Path) -> CsvError:
    with found_files([path]) as (files, refused):
        assert files == []
        (error,) = refused
        return error


def only_file(path: Path) -> CsvFile:
    with found_files([path]) as (files, refused):
        assert refused == []
        (file,) = files
        return file


@pytest.mark.parametrize(
    ("name", "pair", "interval", "is_derived"),
    [
        ("XBTUSD_1.csv", "XBTUSD", 1, False),
        ("XBTUSD_1440.csv", "XBTUSD", 1440, True),
        ("folder/of_1/xbtusd_720.CSV", "xbtusd", 720, True),
        ("ADAUSD.csv", "ADAUSD", None, False),
        ("XBTUSD.d.csv", "XBTUSD.d", None, False),
        ("XBTUSD_1_Q1_2026.csv", "XBTUSD", 1, False),
        ("XBTUSD_60_2026Q4.csv", "XBTUSD", 60, True),
        ("XBTUSD_Q2_2026_1.csv", "XBTUSD", 1, False),
        ("XBTUSD_Q2_2026.csv", "XBTUSD", None, False),
    ],
)
def test_a_name_says_pair_and_interval(name: str, pair: str, interval: int | None, is_derived: bool) -> None:
    content = content_of(name)

    assert content == Content(pair, interval)
    assert content.is_derived is is_derived


@pytest.mark.parametrize("name", ["notes (1).csv", "XBT-USD_1.csv", ".csv", "_1.csv", "XBTUSD_1.txt"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(CsvError, match=r"expected a name like XBTUSD_1\.csv"):
        content_of(name)


def test_an_interval_that_kraken_has_not_is_refused() -> None:
    with pytest.raises(CsvError, match=r"^XBTUSD_7\.csv: expected an interval of Kraken's .* got 7 minutes"):
        content_of("XBTUSD_7.csv")


def test_with_a_symbol_any_name_will_do() -> None:
    assert content_of("march_2026.csv", any_pair=True) == Content("march_2026", None)
    assert content_of("my own file_1.csv", any_pair=True) == Content("my own file", 1)
    assert content_of("download (3).csv", any_pair=True) == Content("download (3)", None)


def test_folders_and_zips_are_searched_to_the_bottom(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / "a/b/XBTUSD_1.csv", [LINE])
    write(tmp_path / "a/.XBTUSD_5.csv", [LINE])
    write(tmp_path / ".hidden/XBTUSD_15.csv", [LINE])
    (tmp_path / "a/readme.txt").write_text("hello")
    content = f"{LINE}\n".encode()
    members = {"x/y/ETHUSD_1.csv": content, "ETHUSD.CSV": content, "__MACOSX/._ETHUSD.csv": b"", "readme.txt": b""}
    write_zip(tmp_path / "a/all.zip", members)

    with found_files([tmp_path, tmp_path / "a/b"]) as (files, refused):
        names = [Path(file.name).relative_to(tmp_path).as_posix() for file in files]
        contents = [b"".join(file.blocks()) for file in files]

    assert names == ["a/all.zip/ETHUSD.CSV", "a/all.zip/x/y/ETHUSD_1.csv", "a/b/XBTUSD_1.csv"]
    assert contents == [content] * 3
    assert refused == []


def test_a_path_that_leads_nowhere_is_said_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"), found_files([tmp_path, tmp_path / "x"]):
        pass


def test_places_without_csv_files_are_refused(tmp_path: Path) -> None:
    assert "the folder contains no .csv or .zip file" in only_refusal(tmp_path).reason
    assert "the zip contains no .csv file" in only_refusal(write_zip(tmp_path / "a.zip", {"b.txt": b""})).reason
    assert (
        "expected a .csv file, a .zip file (or a part of one) or a folder"
        in only_refusal(write(tmp_path / "a.txt", [])).reason
    )


def test_a_zip_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"XBTUSD_1.csv": b"x" * 1000})
    path.write_bytes(path.read_bytes()[:-30])

    error = only_refusal(path)

    assert (error.file, error.line) == (str(path), None)
    assert "cannot be read as a zip" in error.reason
    assert "download it again" in error.reason


def test_a_damaged_member_of_a_zip_is_refused(tmp_path: Path) -> None:
    content = "".join(candle_line(minute) + "\n" for minute in range(1000)).encode()
    path = write_zip(tmp_path / "a.zip", {"XBTUSD_1.csv": content})
    damaged = bytearray(path.read_bytes())
    damaged[200:210] = bytes(10)
    path.write_bytes(damaged)

    with found_files([path]) as (files, _), pytest.raises(CsvError, match=r"cannot be read .*: download it again"):
        find_extent(files[0], Content("XBTUSD", 1))


@pytest.mark.parametrize("cut", [1, 3, 30])
def test_a_last_line_that_does_not_end_is_refused(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "XBTUSD_1.csv", [candle_line(minute) for minute in range(3)])
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(CsvError, match=r"XBTUSD_1\.csv:3: the last line has no newline, .* download it again"):
        find_extent(only_file(path), Content("XBTUSD", 1))


def test_prose_that_does_not_end_with_a_newline_is_no_file_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "note.csv"
    path.write_text("What I wanted to say")

    with pytest.raises(CsvError, match=r"note\.csv:1: expected numbers separated by commas, .*: remove the file"):
        find_extent(only_file(path), Content("note", None))


def test_a_file_without_lines_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_1.csv"
    path.write_bytes(bytes(10_000_000))

    with pytest.raises(CsvError, match=r":1: expected at most 150 characters"):
        find_extent(only_file(path), Content("XBTUSD", 1))


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ([], 1, "the file is empty: download it again"),
        (["time,open,high,low,close,volume,trades"], 1, "the file has no rows after its header: download it again"),
        (
            ["Dear Bob, here they are"],
            1,
            "expected numbers separated by commas, as in Kraken's downloads",
        ),
        (["A note"], 1, "expected numbers separated by commas"),
        (["time,open"], 1, "got 2"),
        ([LINE, "see above"], 2, "expected numbers separated by commas"),
        (["time;open;high;low;close;volume;trades"], 1, "expected commas between the columns, got semicolons"),
        ([LINE.replace(",", ";")], 1, "save the file with commas, or download it again"),
        (["1" * 200], 1, "expected at most 150 characters in a line, got more: download"),
        (["1000000020,1,1,1,1,1,1"], 1, "2001-09-09 is before Kraken's first day"),
        (["time,open,high,low,close,volume,trades", "1000000020,1,1,1,1,1,1", LINE], 2, "before Kraken's first day"),
        ([LINE, "9999999960,1,1,1,1,1,1"], 2, "2286-11-20 is in the future"),
        ([LINE, candle_line(1), LINE[:20]], 3, "got 3"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, lines: list[str], line: int | None, reason: str) -> None:
    file = only_file(write(tmp_path / "XBTUSD_1.csv", lines))

    with pytest.raises(CsvError) as refusal:
        find_extent(file, Content("XBTUSD", 1))

    assert refusal.value.line == line
    assert reason in refusal.value.reason


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [[], ["time,price,volume"]])
def test_the_extent_is_from_the_first_to_the_last_minute(tmp_path: Path, header: list[str], newline: str) -> None:
    for count in (1, 2, 5_000):
        lines = header + [trade_line(90 * n) for n in range(count)]
        extent = find_extent(only_file(write(tmp_path / "XBTUSD.csv", lines, newline=newline)), Content("XBTUSD", None))

        assert extent.first == START
        assert extent.last.timestamp() == START_S + 90 * (count - 1) // 60 * 60


@given(st.lists(st.binary(max_size=140).map(lambda line: line.replace(b"\n", b"")), max_size=5), st.integers(1, 7))
def test_blocks_are_whole_lines_however_the_bytes_come(lines: list[bytes], size: int) -> None:
    content = b"".join(line + b"\n" for line in lines)

    class Chopped(CsvFile, frozen=True):
        def _parts(self):  # type: ignore[no-untyped-def]
            return (content[at : at + size] for at in range(0, len(content), size))

    blocks = list(Chopped("a", 0, Path()).blocks())

    assert b"".join(blocks) == content
    assert all(block.endswith(b"\n") for block in blocks)
