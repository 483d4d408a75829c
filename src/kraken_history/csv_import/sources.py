"""Where the files are: alone, in folders, in zips. Read in blocks of whole lines, never as a whole."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile, ZipFile

from msgspec import Struct

from kraken_history.csv_import.refusal import CsvError
from kraken_history.errors import UsageError

LONGEST_LINE = 150
"""Bytes. Kraken's longest have about 70; what is longer is no line of a table, and could not be computed exactly."""
TOO_LONG = (
    f"is longer than {LONGEST_LINE} characters: this is none of Kraken's downloads, or damaged; download it again"
)

NO_TABLE = (
    "is no line of Kraken's downloads, which are numbers with commas between them: take the file away, or download it"
    " again"
)

_BLOCK = 1 << 16
# What reading a damaged, encrypted or strangely compressed member can raise.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, zlib.error, BadZipFile, NotImplementedError)


class CsvFile(Struct, frozen=True):
    """One CSV file, wherever it lies.

    Attributes:
        name: The path, that of a member of a zip as if the zip were a folder.
        size: In bytes, unpacked.
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
                "the last line does not end: the file was cut off, download it again"
                " (if it is whole, add a newline at its end)",
            )

    def _parts(self) -> Iterator[bytes]:
        try:
            with self._open() as file:
                while part := file.read(_BLOCK):
                    yield part
        except _UNREADABLE as error:
            advice = "download it again" if self.archive else "see whether it may be read"
            raise CsvError(self.name, None, f"cannot be read ({_short(error)}): {advice}") from error

    def _open(self) -> IO[bytes]:
        return self.path.open("rb") if self.archive is None else self.archive.open(self.member)


@contextmanager
def found_files(paths: Iterable[Path]) -> Iterator[tuple[list[CsvFile], list[CsvError]]]:
    """The CSV files of these files, folders and zips, and what cannot be looked into; zips stay open meanwhile.

    Hidden files are passed over, and so is what macOS adds to zips.

    Raises:
        UsageError: A path leads nowhere.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder")
    files: dict[str, CsvFile] = {}
    refused: list[CsvError] = []
    with ExitStack() as stack:
        for path in paths:
            try:
                for single in _singles(path):
                    try:
                        files.update((file.name, file) for file in _files_of(single, stack))
                    except CsvError as error:
                        refused.append(error)
            except CsvError as error:
                refused.append(error)
        yield list(files.values()), refused


def _singles(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".csv", ".zip") and p.is_file())
    singles = [p for p in inside if not _is_hidden(p.relative_to(path).parts)]
    if not singles:
        raise CsvError(str(path), None, "no .csv or .zip file is in this folder")
    return singles


def _files_of(path: Path, stack: ExitStack) -> list[CsvFile]:
    match path.suffix.lower():
        case ".csv" if path.is_file():
            return [CsvFile(path.as_posix(), path.stat().st_size, path)]
        case ".zip" if path.is_file():
            return _members(path, stack)
        case _:
            raise CsvError(str(path), None, "is neither a .csv file, nor a .zip file, nor a folder")


def _members(path: Path, stack: ExitStack) -> list[CsvFile]:
    try:
        archive = stack.enter_context(ZipFile(path))
    except _UNREADABLE as error:
        raise CsvError(str(path), None, f"is not a whole zip ({_short(error)}): download it again") from error
    members = [
        CsvFile(f"{path.as_posix()}/{info.filename}", info.file_size, path, archive, info.filename)
        for info in archive.infolist()
        if PurePosixPath(info.filename).suffix.lower() == ".csv"
        and not info.is_dir()
        and not _is_hidden(PurePosixPath(info.filename).parts)
    ]
    if not members:
        raise CsvError(str(path), None, "no .csv file is in this zip")
    return sorted(members, key=lambda member: member.name)


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)


def _short(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).replace("\n", " ")
