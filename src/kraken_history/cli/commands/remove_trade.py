"""The options of ``remove-trade``."""

from typing import Annotated

import typer

from kraken_history.cli.loading import loading


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("remove-trade")(_remove_trade)


def _remove_trade(
    symbol: Annotated[str, typer.Argument(help="For example BTC/USDT.")],
    trade_id: Annotated[int, typer.Argument(help="Kraken's id of the trade.", metavar="ID", min=0, max=2**63 - 2)],
    reason: Annotated[str, typer.Option(help="Why it is wrong; kept with the removed trade.")],
) -> None:
    """Remove a stored trade that is wrong, and build its candles again.

    The trade is kept in the table removed_trades, with the reason, the user and the time. If its id lies between
    stored ones, it is missing afterwards, so the worker fetches Kraken's own trade of this id. Needs the user who owns
    the tables.

    Example: kraken-history remove-trade BTC/USDT 4611686018427387904 --reason "not a trade of Kraken's"
    """
    with loading():
        from kraken_history.cli.removing import run_remove
        from kraken_history.settings import load_settings
    run_remove(load_settings(), symbol, trade_id, reason)
