"""Asks Kraken about trades whose ids leap absurdly far from the stored ones."""

from collections.abc import Sequence

import asyncpg
from msgspec import Struct

from kraken_history.clock import CLOCK_SLACK
from kraken_history.fetching.pages import TapePage
from kraken_history.fetching.tape import SECOND_LOOK_S, TapeReader
from kraken_history.kraken.client import KrakenRest
from kraken_history.records import HistoricalTrade, unix_ns
from kraken_history.runtime import telemetry
from kraken_history.storing.store import Store
from kraken_history.storing.waiting import WaitingTrade, find_waiting_trades, forget_waiting, note_unknown
from kraken_history.symbols import Pair

_log = telemetry.get_logger("confirming")


class Confirmed(Struct, frozen=True):
    """What Kraken said of one symbol's waiting trades.

    Attributes:
        stored: Trades that were new to the database.
        unknown: Trades that Kraken does not know. They still wait: see :func:`forget_unknown`.
    """

    stored: int
    unknown: Sequence[HistoricalTrade] = ()


async def confirm(
    pool: asyncpg.Pool, store: Store, rest: KrakenRest, pair: Pair, *, second_look_s: float = SECOND_LOOK_S
) -> Confirmed:
    """Ask for the page in which the oldest waiting trade must be, and judge all waiting trades that must be in it.

    A trade that the page shows is stored with the page. Then the others are offered again, because they may follow it.

    Raises:
        KrakenError, ServiceUnavailable, MalformedMessage: As the client raises them.
    """
    await forget_waiting(pool, pair.symbol)
    waiting = await find_waiting_trades(pool, pair.symbol)
    if not waiting:
        return Confirmed(0)
    since = max(unix_ns(waiting[0].trade.timestamp - CLOCK_SLACK), 0)
    reader = TapeReader(pool, store, rest, pair, work="heal", second_look_s=second_look_s)
    page = await reader.read(since, until=None, begins_with_a_trade=False)
    stored = (await reader.store(page)).new_trades
    page.check()
    shown = {trade.id for trade in page.trades}
    confirmed = [each for each in waiting if each.trade.id in shown]
    if confirmed:
        _log.info("leap_confirmed", symbol=pair.symbol, first=confirmed[0].trade.id, count=len(confirmed))
        offered = [each.trade for each in waiting if each.trade.id not in shown]
        stored += (await Store(pool, doubts_leaps=True).write(offered)).new_trades
        await forget_waiting(pool, pair.symbol)
    judged = [each for each in waiting if each.trade.id not in shown and _must_show(page, each)]
    await note_unknown(pool, pair.symbol, [each.trade.id for each in judged])
    return Confirmed(stored, [each.trade for each in judged if each.is_unknown])


def _must_show(page: TapePage, waiting: WaitingTrade) -> bool:
    """True if the page would show the trade, if Kraken had it: its time lies before the last of a full page."""
    return not page.is_full or unix_ns(waiting.trade.timestamp + CLOCK_SLACK) < page.last


async def forget_unknown(pool: asyncpg.Pool, trades: Sequence[HistoricalTrade]) -> None:
    """Let trades that Kraken does not know wait no longer. Keep them as dead letters first."""
    for trade in trades:
        await forget_waiting(pool, trade.symbol, [trade.id])
