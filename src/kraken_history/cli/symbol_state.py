"""What a symbol's feed is doing, from the signs of life of the producers."""

from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from kraken_history.cli.missing_time import lasting
from kraken_history.runtime.signs import ProducerSign, Signs

QUIET_AFTER = timedelta(seconds=60)
"""Age of the newest trade from which a symbol is called quiet, if its producer has received nothing newer."""

StateWord = Literal["live", "quiet", "behind", "refused", "disconnected", "waiting", "not followed"]
"""``live``: everything that the producer received is stored, and the newest trade is less than a minute old. ``quiet``:
the same, and the newest trade is older: nobody trades. ``behind``: the producer has received newer trades. ``refused``:
Kraken refuses the symbol, for example because it was delisted. ``disconnected``: no producer is connected to Kraken.
``waiting``: the producer has received no trade of the symbol yet. ``not followed``: it is not in ``SYMBOLS``."""


class FeedState(Struct, frozen=True):
    """The state of one symbol's feed.

    Attributes:
        reason: Kraken's reason, or what the producer waits for; empty for the other states.
        quiet_since: Time of the newest trade, if nobody has traded since.
        behind_ids: Trades that the producer has received and that are not stored yet.
    """

    word: StateWord
    reason: str = ""
    quiet_since: datetime | None = None
    behind_ids: int = 0


def feed_state(
    symbol: str, newest_id: int | None, newest: datetime | None, *, signs: Signs, is_wanted: bool, now: datetime
) -> FeedState:
    """The state of a symbol.

    Args:
        newest_id, newest: The newest stored trade; None if there is none.
    """
    producers = list(signs.of(ProducerSign))
    live_id = signs.live_ids.get(symbol)
    if live_id is not None:
        return _of_live(live_id, newest_id, newest, now)
    for producer in producers:
        if symbol in producer.refused:
            return FeedState("refused", producer.refused[symbol])
    if not is_wanted:
        return FeedState("not followed")
    if not any(producer.healthy for producer in producers):
        reason = producers[0].state if producers else "no producer is running"
        return FeedState("disconnected", reason)
    return FeedState("waiting", "no trade received yet")


def _of_live(live_id: int, newest_id: int | None, newest: datetime | None, now: datetime) -> FeedState:
    if newest is None or newest_id is None or newest_id < live_id:
        return FeedState("behind", behind_ids=live_id - (newest_id or 0) if newest_id is not None else 1)
    if now - newest < QUIET_AFTER:
        return FeedState("live")
    return FeedState("quiet", quiet_since=newest)


def in_words(state: FeedState, newest: datetime | None, *, now: datetime) -> str:
    """The state as a person reads it."""
    if state.quiet_since is not None:
        day = "" if state.quiet_since.date() == now.date() else f"{state.quiet_since:%Y-%m-%d} "
        return f"quiet since {day}{state.quiet_since:%H:%M}Z"
    if state.word == "live" and newest is not None:
        return f"live, {lasting((now - newest).total_seconds()) if now - newest >= timedelta(seconds=1) else '0 s'} ago"
    if state.word == "behind":
        return f"behind by {state.behind_ids:,} trade(s)"
    return f"{state.word}: {state.reason}" if state.reason else state.word
