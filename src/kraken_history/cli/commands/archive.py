"""The options of ``archive`` and ``restore-archive``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading

_URI = "A folder, or s3://bucket/path."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("archive")(_archive)
    app.command("restore-archive")(_restore_archive)


def _archive(
    uri: Annotated[str, typer.Argument(metavar="URI", help=_URI)],
    symbols: Annotated[list[str] | None, typer.Argument(metavar="[SYMBOL]...", help="For example BTC/USDT.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Archive all stored symbols.")] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="Only months that begin at this time or later, as for `candles`.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Only months that end at this time or earlier.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Write trades and one-minute candles of closed months as Parquet files, with a manifest of what is proven.

    Writes the months that are new or have changed since; prints a line for each. May run beside `up`. If it is
    interrupted, the archive can be read, and the next run completes it. Exits with 1 if a month could not be
    archived. An object store takes its keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Needs the extra `arrow`.

    Example: kraken-history archive /data/kraken --all
    """
    with loading():
        from kraken_history.cli.archive import run_archive_command
    run_archive_command(uri, symbols or [], from_, to, all_=all_, as_json=as_json)


def _restore_archive(
    uri: Annotated[str, typer.Argument(metavar="URI", help=_URI)],
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL]...", help="For example BTC/USDT. Default: all.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Only months that begin at this time or later, as for `candles`.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Only months that end at this time or earlier.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Fill an empty database from an archive: trades, one-minute candles, and the ledger that proves them.

    Checks the digest of each file first. Each month is one transaction: if it is interrupted, run it again. The worker
    computes the longer candles afterwards, or `kraken-history refresh` does.

    Example: kraken-history restore-archive /data/kraken BTC/USDT
    """
    with loading():
        from kraken_history.cli.archive import run_restore_command
    run_restore_command(uri, symbols or [], from_, to, as_json=as_json)
