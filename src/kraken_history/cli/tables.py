"""Tables on standard output. They fit into 80 columns."""

from collections.abc import Collection
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_WIDTH_IN_A_PIPE = 250
_WIDE = 110  # columns of a terminal from which on a time takes one line
_DAY = 10  # columns of a day, and of a time of day


def table_of(
    *columns: str, times: Collection[str] = (), texts: Collection[str] = (), title: str | None = None
) -> Table:
    """An empty table. All columns except the first are right-aligned.

    Args:
        times: Columns of :func:`moment_cell`. In a narrow terminal the time is below the day.
        texts: Columns of long texts, which take as many lines as they need. If there are any of the two kinds, symbols
            and numbers in the other columns are not broken.
    """
    is_narrow = is_narrow_terminal()
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for at, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if at else "left",
            overflow="fold",
            width=_DAY if is_narrow and column in times else None,
            no_wrap=bool(times or texts) and column not in texts and not (is_narrow and column in times),
        )
    return table


def is_narrow_terminal() -> bool:
    """True if standard output is a terminal without room for long lines."""
    return console_of_tables().width < _WIDE


def moment_cell(moment: datetime | None) -> str:
    """A time in a cell, to the second."""
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def console_of_tables() -> Console:
    """Standard output in the terminal's width, or in ``_WIDTH_IN_A_PIPE`` columns without a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_IN_A_PIPE)


def print_table(table: Table) -> None:
    """Print a table."""
    console_of_tables().print(table)
