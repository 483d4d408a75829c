"""Which symbols may have a gap, in two queries for all of them: so that most symbols need no job of their own."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import asyncpg

from kraken_history.completeness.covered_time import find_uncovered
from kraken_history.completeness.gap_length import MIN_GAP
from kraken_history.completeness.holes import find_fetchable_holes


async def find_symbols_with_gaps(
    pool: asyncpg.Pool, symbols: Sequence[str], start: datetime, *, live_ids: Mapping[str, int], now: datetime
) -> list[str]:
    """Those of the symbols with missing ids that REST may show, or with uncovered time since ``start``, in order.

    Args:
        live_ids: By symbol of a connected feed, the newest trade id that it has received.
    """
    with_holes = await find_fetchable_holes(pool)
    uncovered = {
        found.symbol
        for found in await find_uncovered(pool, symbols, start, now)
        if found.lasting(MIN_GAP, live_id=live_ids.get(found.symbol), now=now)
    }
    return [symbol for symbol in symbols if symbol in with_holes or symbol in uncovered]
