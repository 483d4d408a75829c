"""Tables on standard output."""

from rich.console import Console
from rich.table import Table

_WIDTH_IN_A_PIPE = 250


def table_of(*columns: str, title: str | None = None) -> Table:
    """An empty table; figures, so all columns but the first, stand right. Long cells are folded, never cut."""
    table = Table(title=title, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table: as wide as the terminal allows, or as it is where there is none."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_IN_A_PIPE)
    console.print(table)
