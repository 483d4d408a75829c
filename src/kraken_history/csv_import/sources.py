"""Finds files: single ones, in folders, in zips. Reads them in blocks of whole lines, never as a whole."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile, ZipFile

from msgspec import Struct

from kraken_history.csv_import.archives import SEVERAL_VOLUMES, archive_of, is_part, is_volume, open_archive
from kraken_history.csv_import.refusal import CsvError
from kraken_history.errors import UsageError

LONGEST_LINE = 150
"""Maximum length of a line, in bytes. Kraken's longest have about 70. Longer numbers could not be computed exactly."""
TOO_LONG = f"expected at most {LONGEST_LINE} characters in a line, got more: download the file again"

NO_TABLE = (
    "expected numbers separated by commas, as in Kraken's downloads: remove the file from the import, or download it"
    " again"
)

_BLOCK = 1 << 16
_LONGEST_REASON = 200  # characters
# Errors from reading a damaged, encrypted or unusually compressed member.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, zlib.error, BadZipFile, NotImplementedError)


class CsvFile(Struct, frozen=True):
    """One CSV file, on disk or in a zip.

    Attributes:
        name: The path; for a member of a zip, as if the zip were a folder.
        size: Unpacked size in bytes.
    """

    name: str
    size: int
    path: Path
    archive: ZipFile | None = None
    member: str = ""

    def blocks(self) -> Iterator[bytes]:
        """The file in blocks of whole lines, each with its newline.

        Raises:
            CsvError: The last line has no newline; a line is too long; the file cannot be read or unpacked.
        """
        lines, rest = 0, b""
        for part in self._parts():
            head, newline, tail = part.rpartition(b"\n")
            block, rest = (rest + head + newline, tail) if newline else (b"", rest + tail)
            if len(rest) > LONGEST_LINE:
                raise CsvError(self.name, lines + block.count(b"\n") + 1, TOO_LONG)
            if block:
                lines += block.count(b"\n")
                yield block
        if rest and not lines and not rest[:1].isdigit():
            raise CsvError(self.name, 1, NO_TABLE)
        if rest:
            raise CsvError(
                self.name,
                lines + 1,
                "the last line has no newline, so the file may be cut off: download it again"
                " (if it is complete, add a newline at its end)",
            )

    def _parts(self) -> Iterator[bytes]:
        try:
            with self._open() as file:
                while part := file.read(_BLOCK):
                    yield part
        except _UNREADABLE as error:
            advice = "download it again" if self.archive else "check its permissions"
            raise CsvError(self.name, None, f"cannot be read ({_short(error)}): {advice}") from error

    def _open(self) -> IO[bytes]:
        return self.path.open("rb") if self.archive is None else self.archive.open(self.member)


@contextmanager
def found_files(paths: Iterable[Path]) -> Iterator[tuple[list[CsvFile], list[CsvError]]]:
    """The CSV files of these files, folders and zips, and the errors of unreadable ones. Zips stay open meanwhile.

    Hidden files are skipped, and so are the files that macOS adds to zips.

    Raises:
        UsageError: A path does not exist.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    files: dict[str, CsvFile] = {}
    refused: list[CsvError] = []
    singles: dict[Path, Path] = {}
    for path in paths:
        try:
            for single in _singles(path):  # one part stands for the whole archive
                singles.setdefault(single.with_suffix("") if is_part(single) else single, single)
        except CsvError as error:
            refused.append(error)
    with ExitStack() as stack:
        for single in singles.values():
            try:
                files.update((file.name, file) for file in _files_of(single, stack))
            except CsvError as error:
                refused.append(error)
        yield list(files.values()), refused


def _singles(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = sorted(p for p in path.rglob("*") if _may_hold_csv(p) and p.is_file())
    singles = [p for p in inside if not _is_hidden(p.relative_to(path).parts)]
    if not singles:
        raise CsvError(str(path), None, "the folder contains no .csv or .zip file")
    return singles


def _may_hold_csv(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".zip") or is_part(path)


def _files_of(path: Path, stack: ExitStack) -> list[CsvFile]:
    match path.suffix.lower():
        case ".csv" if path.is_file():
            return [CsvFile(path.as_posix(), path.stat().st_size, path)]
        case ".zip" if path.is_file():
            return _members(path, stack)
        case _ if is_part(path) and path.is_file():
            return _members(path, stack)
        case _ if is_volume(path):
            raise CsvError(str(path), None, SEVERAL_VOLUMES)
        case _:
            raise CsvError(str(path), None, "expected a .csv file, a .zip file (or a part of one) or a folder")


def _members(path: Path, stack: ExitStack) -> list[CsvFile]:
    whole = archive_of(path)
    path = whole.path
    try:
        archive = open_archive(whole, stack)
    except _UNREADABLE as error:
        raise CsvError(str(path), None, f"cannot be read as a zip ({_short(error)}): download it again") from error
    members = [
        CsvFile(f"{path.as_posix()}/{info.filename}", info.file_size, path, archive, info.filename)
        for info in archive.infolist()
        if PurePosixPath(info.filename).suffix.lower() == ".csv"
        and not info.is_dir()
        and not _is_hidden(PurePosixPath(info.filename).parts)
    ]
    if not members:
        raise CsvError(str(path), None, "the zip contains no .csv file")
    return sorted(members, key=lambda member: member.name)


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)


def _short(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).replace("\n", " ")
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"  # it may quote the archive's bytes
