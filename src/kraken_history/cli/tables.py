"""Tables on standard output."""

from rich.console import Console
from rich.table import Table

_WIDTH_IN_A_PIPE = 250


def table_of(*columns: str, title: str | None = None) -> Table:
    """An empty table. All columns except the first are right-aligned. Long cells are folded, never cut."""
    table = Table(title=title, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table in the terminal's width, or in ``_WIDTH_IN_A_PIPE`` columns without a terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_IN_A_PIPE)
    console.print(table)
