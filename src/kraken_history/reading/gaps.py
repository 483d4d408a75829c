"""The argument ``gaps`` of every read: what to do about history that is not complete."""

from typing import Literal, get_args

from kraken_history.errors import InvalidChoice

GapsChoice = Literal["ignore", "raise", "pad", "fill"]
"""How a read of candles handles missing data; ``fill`` is an older name of ``pad``."""

TradeGapsChoice = Literal["ignore", "raise"]
"""How a read of trades handles missing data. There is no flat trade to make up, so there is nothing to pad with."""

PADS: tuple[GapsChoice, ...] = ("pad", "fill")


def checked_gaps(gaps: GapsChoice) -> GapsChoice:
    """The choice for candles, with ``pad`` for its older name.

    Raises:
        InvalidChoice: It is not a :data:`GapsChoice`.
    """
    if gaps not in get_args(GapsChoice):
        raise InvalidChoice("gaps", gaps, get_args(GapsChoice))
    return "pad" if gaps in PADS else gaps


def checked_trade_gaps(gaps: TradeGapsChoice) -> TradeGapsChoice:
    """The choice for trades.

    Raises:
        InvalidChoice: It is not a :data:`TradeGapsChoice`.
    """
    if gaps not in get_args(TradeGapsChoice):
        raise InvalidChoice("gaps", gaps, get_args(TradeGapsChoice))
    return gaps
