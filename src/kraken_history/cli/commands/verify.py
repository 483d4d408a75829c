"""The options of ``verify``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(_verify)


def _verify(
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL]...", help="For example BTC/USDT. Default: all.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Start time, ISO 8601; UTC unless it has an offset. Default: the oldest data."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="End time, not included. Default: the newest data.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild from the stored trades what differs, and verify again.")
    ] = False,
    archive: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Check an archive instead: its files, and some months against the database."),
    ] = None,
) -> None:
    """Recount trades, ledger and candles, and report what differs.

    Compares the stored trades with the ledger, each candle with its trades, and longer candles with their minutes.
    Rows that retention dropped are no difference. Exits with 1 if anything differs. Without --repair it only reads,
    and may run beside `up`. With --repair, trades that are lost become missing, so that they are fetched again; it
    needs the user who owns the tables.

    With --archive, reads every file of the archive, compares it with its digest, and compares three months per symbol,
    chosen at random, with the rows of the database.

    Example: kraken-history verify BTC/USDT --from 2026-01-01
    """
    with loading():
        from kraken_history.cli.verify import run_archive_check, run_command
    if archive is not None:
        run_archive_check(archive, symbols or [], from_, to, as_json=as_json, repairs=repair)
    run_command(symbols or [], from_, to, as_json=as_json, repairs=repair)
