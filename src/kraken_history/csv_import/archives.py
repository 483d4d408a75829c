"""Opens zips: whole ones, and those that Kraken offers in parts, which are read as one without joining them on disk.

The parts are cut anywhere, as by ``split``: their bytes in order are the zip. A zip "in several volumes", as programs
for zips write them (``.z01``, ``.z02``, ``.zip``), has another format and is not read.
"""

import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from msgspec import Struct

from kraken_history.csv_import.refusal import CsvError

_PART = re.compile(r"(?P<zip>.+\.zip)\.(?P<word>part)?(?P<number>\d{2,4})", re.IGNORECASE | re.ASCII)
_VOLUME = re.compile(r".+\.z\d{2,3}", re.IGNORECASE | re.ASCII)
_MOST_NAMED = 3
_MEMBER_HEADER = b"PK\x03\x04"


class Archive(Struct, frozen=True):
    """A zip, whole or in parts.

    Attributes:
        path: The path of the zip; if it is in parts, the path that it would have.
        parts: The files that make it up, in order.
    """

    path: Path
    parts: tuple[Path, ...]


def is_part(path: Path) -> bool:
    """True for a name like ``….zip.part00`` or ``….zip.001``."""
    return _PART.fullmatch(path.name) is not None


def is_volume(path: Path) -> bool:
    """True for a name like ``….z01``."""
    return _VOLUME.fullmatch(path.name) is not None


def archive_of(path: Path) -> Archive:
    """The archive of a zip, or of any of its parts, with all parts beside it.

    Raises:
        CsvError: A part is missing.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return Archive(path, (path,))
    whole = path.with_name(match["zip"])
    numbered: dict[int, Path] = {}
    for each in sorted(path.parent.iterdir()):
        other = _PART.fullmatch(each.name)
        if other and (other["zip"], other["word"]) == (match["zip"], match["word"]) and each.is_file():
            numbered[int(other["number"])] = each
    first = 0 if match["word"] or 0 in numbered else 1
    missing = [number for number in range(first, max(numbered)) if number not in numbered]
    if missing:
        digits = len(match["number"])
        names = [f"{whole.name}.{match['word'] or ''}{number:0{digits}}" for number in missing]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        raise CsvError(
            whole.as_posix(), None, f"{', '.join(names[:_MOST_NAMED])}{more} missing: put all parts into one folder"
        )
    return Archive(whole, tuple(numbered[number] for number in sorted(numbered)))


def open_archive(archive: Archive, stack: ExitStack) -> ZipFile:
    """Open a zip for as long as the stack lasts.

    Raises:
        CsvError: It has parts, and one of them is not a part of it, or the last ones are missing.
        OSError, BadZipFile, ValueError: It cannot be read as a zip.
    """
    if len(archive.parts) == 1 and archive.parts[0] == archive.path:
        try:
            return stack.enter_context(ZipFile(archive.path))
        except BadZipFile:
            if any(is_volume(each) for each in archive.path.parent.glob(f"{archive.path.stem}.[zZ][0-9]*")):
                raise CsvError(archive.path.as_posix(), None, SEVERAL_VOLUMES) from None
            raise
    joined = _JoinedFiles([stack.enter_context(part.open("rb")) for part in archive.parts])
    try:
        opened = stack.enter_context(ZipFile(io.BufferedReader(joined)))
    except (BadZipFile, OSError, EOFError, ValueError) as error:
        raise CsvError(archive.path.as_posix(), None, _trouble(archive, joined, str(error))) from error
    offsets = [info.header_offset for info in opened.infolist()]
    if min(offsets, default=0) < 0:  # the zip is shorter than it says
        raise CsvError(archive.path.as_posix(), None, _trouble(archive, joined, "bytes are missing"))
    wrong = _first_wrong_part(archive, joined, offsets)
    if wrong is not None:
        raise CsvError(
            archive.path.as_posix(),
            None,
            f"{wrong.name} does not belong to the other parts, or was cut off: download it again",
        )
    return opened


SEVERAL_VOLUMES = (
    "expected a zip in one file, or in parts like .zip.part00, got one in several volumes (.z01, .zip), which cannot be"
    " read: join them with `zip -s 0 IN.zip --out OUT.zip`"
)


def _trouble(archive: Archive, joined: "_JoinedFiles", reason: str) -> str:
    """Why the parts are no zip: one of them has another length than the others, or the last one is not the end."""
    lengths = joined.lengths
    for part, length in zip(archive.parts[1:-1], lengths[1:-1], strict=True):
        if length != lengths[0]:
            return (
                f"{part.name} has {length:,} bytes, unlike {archive.parts[0].name} ({lengths[0]:,}): download it again"
            )
    last = archive.parts[-1].name
    return f"the parts up to {last} cannot be read as a zip ({reason}): add the missing parts, or download {last} again"


def _first_wrong_part(archive: Archive, joined: "_JoinedFiles", offsets: Iterable[int]) -> Path | None:
    """The part in which a member should begin and does not; None if all members begin where the zip says."""
    for offset in sorted(offsets):
        joined.seek(offset)
        if _read(joined, len(_MEMBER_HEADER)) != _MEMBER_HEADER:
            return archive.parts[joined.part_at(offset)]
    return None


def _read(file: "_JoinedFiles", count: int) -> bytes:
    found = b""
    while len(found) < count and (more := file.read(count - len(found))):
        found += more
    return found


class _JoinedFiles(io.RawIOBase):
    """Several files as one, read-only. They are not closed with it."""

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        self._files = files
        self.lengths = [file.seek(0, io.SEEK_END) for file in files]
        self._starts = [0, *accumulate(self.lengths)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if start + offset < 0:
            raise OSError("the position is before the first part")
        self._at = start + offset
        return self._at

    def part_at(self, offset: int) -> int:
        """The number of the file, from zero, that holds this byte."""
        return min(bisect_right(self._starts, offset) - 1, len(self._files) - 1)

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        """Read from one file at most; 0 at the end of the last."""
        if self._at >= self._starts[-1]:
            return 0
        part = self.part_at(self._at)
        count = min(len(buffer), self._starts[part + 1] - self._at)
        file = self._files[part]
        file.seek(self._at - self._starts[part])
        found = file.read(count)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
