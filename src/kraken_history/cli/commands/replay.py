"""The options of ``replay``."""

from typing import Annotated

import typer

from kraken_history.cli.instants import MOST_DAYS
from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(_replay)


def _replay(
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="[SYMBOL...]", help="For example BTC/USDT. Default: all stored ones.")
    ] = None,
    as_kraken: Annotated[
        bool, typer.Option("--as-kraken", help="Serve Kraken's WebSocket v2 and REST. Required.")
    ] = False,
    from_: Annotated[str | None, typer.Option("--from", help="Start time; UTC without an offset.")] = None,
    to: Annotated[str | None, typer.Option(help="End time, not included (default: now).")] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=MOST_DAYS, help="Instead of --from: this many days before --to, or now.")
    ] = None,
    speed: Annotated[str, typer.Option(help="Seconds of history per second, such as 10, or max.")] = "1",
    gaps: Annotated[
        str,
        typer.Option(
            metavar="raise|ignore",
            help="What to do if trades of the range are missing. raise: fail, and name the command that fetches them."
            " ignore: send what is stored.",
        ),
    ] = "raise",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")] = 8800,
    stay: Annotated[bool, typer.Option("--stay", help="Keep serving after the end, until Ctrl-C.")] = False,
) -> None:
    """Serve stored trades as Kraken would have sent them, so that any client of Kraken runs on real history.

    Prints the URLs that a client uses in place of Kraken's. Time begins to run one second after a client has subscribed
    to `trade` or `ohlc`. Ids, prices, volumes, order types and times are those that are stored. Candles are built up
    trade by trade. Needs a checkout, like `demo`.

    Example: kraken-history replay --as-kraken --from 2026-01-31 --to 2026-02-01 --speed 10 BTC/USDT
    """
    with loading():
        from kraken_history.cli.replay import run_replay
        from kraken_history.errors import UsageError
        from kraken_history.settings import load_settings
    if not as_kraken:
        raise UsageError("expected --as-kraken, the only kind of replay that this command has")
    raise typer.Exit(
        run_replay(
            load_settings(), symbols or [], from_, to, days, speed=speed, gaps=gaps, host=host, port=port, stays=stay
        )
    )
