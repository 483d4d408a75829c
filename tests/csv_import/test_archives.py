"""Kraken's full archive comes in parts, which are read as one zip."""

import zipfile
from pathlib import Path

import pytest

from kraken_history.csv_import import CsvError, CsvFile, found_files
from tests.support.csv_files import candle_line, write, write_zip

CONTENTS = {
    f"master/{pair}_1.csv": "".join(candle_line(minute, volume=f"{n}.5") + "\n" for minute in range(500)).encode()
    for n, pair in enumerate(("ADAUSD", "ETHUSD", "XBTEUR", "XBTUSD"), 1)
}


def cut(path: Path, count: int, pattern: str = "{name}.part{number:02}", first: int = 0) -> list[Path]:
    """Cut a file into parts, and remove it."""
    content = path.read_bytes()
    size = -(-len(content) // count)
    parts = [path.with_name(pattern.format(name=path.name, number=first + number)) for number in range(count)]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * size : (number + 1) * size])
    path.unlink()
    return parts


def cut_archive(folder: Path, count: int = 5, pattern: str = "{name}.part{number:02}", first: int = 0) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return cut(write_zip(folder / "Kraken_OHLCVT.zip", CONTENTS), count, pattern, first)


def contents_of(*paths: Path) -> dict[str, bytes]:
    """What is found under each name, relative to the archive; nothing may be refused."""
    with found_files(paths) as (files, refused):
        assert refused == []
        return {file.name.partition(".zip/")[2]: b"".join(file.blocks()) for file in files}


def only_reason(*paths: Path) -> str:
    with found_files(paths) as (files, refused):
        assert files == []
        (error,) = refused
        assert error.line is None
        return error.reason


@pytest.mark.parametrize("given", ["the folder", "the first part", "a later part", "all parts"])
def test_an_archive_in_parts_is_read_as_one_zip(tmp_path: Path, given: str) -> None:
    parts = cut_archive(tmp_path / "full")
    paths = {
        "the folder": [tmp_path / "full"],
        "the first part": parts[:1],
        "a later part": parts[3:4],
        "all parts": [*parts, tmp_path],
    }[given]

    assert contents_of(*paths) == CONTENTS
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [part.name for part in parts]


@pytest.mark.parametrize(
    ("pattern", "first"), [("{name}.{number:03}", 1), ("{name}.PART{number:02}", 0), ("{name}.{number:03}", 0)]
)
def test_parts_may_be_counted_as_other_programs_do(tmp_path: Path, pattern: str, first: int) -> None:
    cut_archive(tmp_path / "full", 3, pattern, first)

    assert contents_of(tmp_path / "full") == CONTENTS


def test_a_member_is_named_as_if_the_joined_zip_were_a_folder(tmp_path: Path) -> None:
    cut_archive(tmp_path / "full")

    with found_files([tmp_path]) as (files, _):
        names = [file.name for file in files]

    assert names == [f"{tmp_path}/full/Kraken_OHLCVT.zip/{name}" for name in sorted(CONTENTS)]


def test_a_large_archive_has_64_bit_sizes(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("XBTUSD_1.csv", "w", force_zip64=True) as member,
    ):
        member.write(CONTENTS["master/XBTUSD_1.csv"])
    _add_zip64_end(path)
    cut(path, 4)

    assert contents_of(tmp_path) == {"XBTUSD_1.csv": CONTENTS["master/XBTUSD_1.csv"]}


def _add_zip64_end(path: Path) -> None:
    """Move the directory's place and size into the record for archives of more than 4 GiB."""
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    size, offset = (int.from_bytes(content[end + at : end + at + 4], "little") for at in (12, 16))
    count = int.from_bytes(content[end + 10 : end + 12], "little")
    record = b"PK\x06\x06" + (44).to_bytes(8, "little") + (45).to_bytes(2, "little") * 2 + bytes(8)
    record += count.to_bytes(8, "little") * 2 + size.to_bytes(8, "little") + offset.to_bytes(8, "little")
    locator = b"PK\x06\x07" + bytes(4) + end.to_bytes(8, "little") + (1).to_bytes(4, "little")
    tail = content[end : end + 8] + b"\xff" * 12 + content[end + 20 :]
    path.write_bytes(content[:end] + record + locator + tail)


@pytest.mark.parametrize("lost", [0, 2, 3])
def test_a_missing_part_is_named(tmp_path: Path, lost: int) -> None:
    parts = cut_archive(tmp_path / "full")
    parts[lost].unlink()

    reason = only_reason(tmp_path)

    assert reason == f"Kraken_OHLCVT.zip.part0{lost} missing: put all parts into one folder"


def test_without_the_last_part_the_line_says_up_to_where_there_are_parts(tmp_path: Path) -> None:
    parts = cut_archive(tmp_path / "full")
    parts[4].unlink()

    reason = only_reason(parts[0])

    assert reason.startswith("the parts up to Kraken_OHLCVT.zip.part03 cannot be read as a zip")
    assert "add the missing parts" in reason


def test_a_part_of_another_archive_is_named(tmp_path: Path) -> None:
    parts = cut_archive(tmp_path / "full", 3)
    parts[1].write_bytes(bytes(reversed(parts[1].read_bytes())))

    reason = only_reason(parts[0])

    assert reason == "Kraken_OHLCVT.zip.part01 does not belong to the other parts, or was cut off: download it again"


@pytest.mark.parametrize("short", [1, 2])
def test_a_part_that_was_cut_off_is_named(tmp_path: Path, short: int) -> None:
    parts = cut_archive(tmp_path / "full")
    parts[short].write_bytes(parts[short].read_bytes()[:-100])

    reason = only_reason(parts[0])

    assert f"part0{short}" in reason
    assert "download it again" in reason


def test_parts_of_two_archives_lie_beside_each_other(tmp_path: Path) -> None:
    cut_archive(tmp_path)
    cut(write_zip(tmp_path / "Other.zip", {"DOTUSD_1.csv": b"x\n"}), 2)
    write(tmp_path / "SOLUSD_1.csv", ["y"])

    assert contents_of(tmp_path) == {**CONTENTS, "DOTUSD_1.csv": b"x\n", "": b"y\n"}


def test_a_zip_in_several_volumes_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = write(tmp_path / "a.z01", ["no zip"])
    (tmp_path / "a.zip").write_bytes(b"the last volume")

    reasons = [only_reason(path), only_reason(tmp_path / "a.zip")]

    assert all("several volumes" in reason and "zip -s 0" in reason for reason in reasons)


def test_a_damaged_member_of_an_archive_in_parts_is_refused_alone(tmp_path: Path) -> None:
    parts = cut_archive(tmp_path, 2)
    damaged = bytearray(parts[0].read_bytes())
    damaged[100:110] = bytes(10)
    parts[0].write_bytes(damaged)

    with found_files([tmp_path]) as (files, refused):
        faults = {file.member: _fault(file) for file in files}

    assert refused == []
    assert faults.pop("master/ADAUSD_1.csv") is not None
    assert set(faults.values()) == {None}


def _fault(file: CsvFile) -> CsvError | None:
    try:
        list(file.blocks())
    except CsvError as error:
        return error
    return None
