"""The error of this package."""

from kraken_history.errors import UsageError


class CsvError(UsageError):
    """A file that was refused; nothing of it is stored.

    Attributes:
        file: The path as given; for a file in a zip, as if the zip were a folder.
        line: Line number, from 1; None if the error is about the whole file.
        reason: The fault, and the remedy.
    """

    def __init__(self, file: str, line: int | None, reason: str) -> None:
        super().__init__(f"{file}: {reason}" if line is None else f"{file}:{line}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason
