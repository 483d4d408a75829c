"""Files to import."""

import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

START_S = 1_672_531_200  # 2023-01-01
START = datetime(2023, 1, 1, tzinfo=UTC)


def candle_line(minute: int = 0, *, close: str = "101.5", volume: str = "2.50", trades: int = 3) -> str:
    """A line of one-minute candles."""
    return f"{START_S + 60 * minute},100.0,102.0,99.0,{close},{volume},{trades}"


def trade_line(second: int = 0, price: str = "100.10000", volume: str = "0.10000000") -> str:
    """A line of time and sales."""
    return f"{START_S + second},{price},{volume}"


def write(path: Path, lines: Iterable[str], *, newline: str = "\n") -> Path:
    """A file of whole lines."""
    path.write_bytes("".join(line + newline for line in lines).encode())
    return path


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    """A zip with these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def column_sum(path: Path, column: int) -> Decimal:
    """The exact sum of one column of a recorded file."""
    return sum((Decimal(line.split(",")[column]) for line in path.read_text().splitlines()), Decimal(0))
