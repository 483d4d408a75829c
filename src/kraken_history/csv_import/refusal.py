"""The error of this package."""

from kraken_history.errors import UsageError


class CsvError(UsageError):
    """A file that is not taken; nothing of it is stored.

    Attributes:
        file: As it was given; a file in a zip reads as if the zip were a folder.
        line: Counted from 1; None where the file as a whole is meant.
        reason: What is wrong with it, and what to do.
    """

    def __init__(self, file: str, line: int | None, reason: str) -> None:
        super().__init__(f"{file}: {reason}" if line is None else f"{file}:{line}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason
