"""When a candle is closed, which means that no further trade is expected for it.

A candle that ends at ``E`` is closed if one of these conditions holds:

* a trade of its symbol at or after ``E`` is stored, and no trade id before it is missing. This is a proof;
* no such trade is stored, but Kraken was asked about the time up to ``E``, and had no further trades;
* no such trade is stored, but the database's clock and the newest stored trade of any symbol are both past ``E`` by
  the grace: the pipeline is running, and the symbol is quiet. While no trades are being stored, this closes nothing.
  It is not a proof: it assumes that a symbol's trades are never stored more than the grace behind another's;
* candles of later minutes are stored, from a download or from the exchange, and ``E`` is past by the patience.

If ids are missing inside the ledger, the candles that may contain their trades stay open until the trades are stored
or the ids are proven absent, but at most until the patience after ``E``. Then the candle is emitted as it is.

If a symbol has downloaded candles and no trades, a minute is closed by any later minute. If nothing has been stored
for the symbol for the grace, all its minutes are closed.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct

from kraken_history.completeness.settled import SETTLED
from kraken_history.errors import InvalidNumber
from kraken_history.reading.database import Database


class Timing(Struct, frozen=True, kw_only=True):
    """How long to wait, in seconds.

    Attributes:
        grace_s: After the end of a candle, for trades that are on their way, before its symbol counts as quiet. It
            must be longer than ``RECLAIM_AFTER_S`` plus five seconds, after which another consumer stores the entries
            of a dead one. It must also be longer than the time by which one stream shard lags behind another.
        patience_s: After the end of a candle, for trades that are known to be missing.
        poll_s: Between two queries while no notification arrives.
    """

    grace_s: float = 45.0
    patience_s: float = 120.0
    poll_s: float = 2.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or not 0 <= value <= _LONGEST_S or (name == "poll_s" and not value):
                raise InvalidNumber(name, value, f"a number of seconds, at most {_LONGEST_S:,}")


class Settled(Struct, frozen=True):
    """How far a symbol's candles are closed.

    Attributes:
        now: The database's clock.
        until: Candles that end at or before this are closed; None if nothing is stored.
        oldest: Open time of the oldest one-minute candle; None if there is none.
        stored_at: When data of the symbol was last stored; if the value changes, new data was stored.
        has_trades: False if only candles are stored. They may arrive in any order of time, as downloads do.
    """

    symbol: str
    now: datetime
    until: datetime | None
    oldest: datetime | None
    stored_at: datetime | None
    has_trades: bool


async def read_settled(
    database: Database,
    positions: Mapping[str, datetime | None],
    width: timedelta,
    timing: Timing,
    *,
    now: datetime | None = None,
) -> list[Settled]:
    """How far each symbol's candles are closed, for a reader that has read all candles before its position.

    Args:
        positions: Per symbol, the bound of a bucket. Missing ids before it keep nothing open. None means that the
            reader has read nothing, and wants no candle that ended longer ago than the patience.
        width: Length of the candles.
        now: Replaces the database's clock.
    """
    patience = timedelta(seconds=timing.patience_s)
    rows = await database.fetch(
        SETTLED,
        list(positions),
        list(positions.values()),
        timedelta(seconds=timing.grace_s),
        patience,
        width,
        now,
    )
    return [Settled(*row) for row in rows]


_LONGEST_S = 10 * 366 * 86_400  # upper bound of each time: ten years
