"""The log of faults: one line of JSON per fault that struck, which :func:`read_log` reads back for a replay."""

import json
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import msgspec
from msgspec import Struct

from kraken_history.errors import UsageError
from simulator.faults.kinds import Point, Value, kind_of
from simulator.faults.plan import Opportunity, Strike

KEPT_LINES = 100_000
"""Maximum number of lines kept in memory for the control endpoint: about 30 MB. A file has all of them."""


class Line(Struct, frozen=True):
    """One fault that struck.

    Attributes:
        time: When, in UTC, by the machine's clock.
        s: Seconds since the simulator started.
        fault: Which.
        point, subject, n: The opportunity.
        args: All its parameters.
        hit: What it struck: ids of trades, a call of REST, the number of sockets.
    """

    time: str
    s: float
    fault: str
    point: Point
    subject: str
    n: int
    args: dict[str, Value]
    hit: dict[str, object] = {}

    @property
    def strike(self) -> Strike:
        """The fault, to strike again."""
        return Strike(self.fault, Opportunity(self.point, self.subject, self.n), self.args)


class Log:
    """The lines, in memory and, if there is a path, in a file.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.count = 0
        self._lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = path.open("w", encoding="utf-8", buffering=1)
            except OSError as error:
                raise UsageError(f"cannot write the log of faults {path}: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, strike: Strike, now_s: float, hit: dict[str, object]) -> Line:
        """Record a fault that strikes now."""
        where = strike.where
        time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        line = Line(time, round(now_s, 3), strike.fault, where.point, where.subject, where.n, dict(strike.args), hit)
        self.count += 1
        self._lines.append(line)
        if self._file is not None and not self._file.closed:
            self._file.write(encode(line) + "\n")
        return line

    def after(self, count: int) -> list[Line]:
        """The kept lines behind the first ``count`` ones."""
        kept_from = self.count - len(self._lines)
        return list(self._lines)[max(count - kept_from, 0) :]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def encode(line: Line) -> str:
    """One line of the log, without its newline."""
    return json.dumps(msgspec.to_builtins(line), separators=(",", ":"))


_line = msgspec.json.Decoder(Line)


def decode(text: str | bytes) -> Line:
    """A line of the log.

    Raises:
        UsageError: It is not one.
    """
    try:
        line = _line.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UsageError(f"expected a fault as the simulator logs it ({error})") from error
    kind, args = kind_of(line.fault), dict(line.args)
    symbol = args.pop("symbol", None)
    if kind.point != line.point or set(args) != set(kind.parameters) or (kind.draws_symbol and symbol is None):
        raise UsageError(f"expected {line.fault} at {kind.point} with all its parameters, got {line.point} {args}")
    for name, parameter in kind.parameters.items():
        parameter.checked(f"{line.fault}: {name}", args[name])
    return line


def read_log(path: Path) -> list[Line]:
    """The faults of a log file.

    Raises:
        UsageError: It cannot be read, or a line is not a fault; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot read the log of faults {path}: {getattr(error, 'strerror', '') or error}") from error
    return list(_lines(path, text))


def _lines(path: Path, text: str) -> Iterator[Line]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield decode(line)
            except UsageError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
