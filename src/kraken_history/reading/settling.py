"""When a candle is closed: nothing more is expected to come for it.

A candle that ends at ``E`` is closed when one of these holds:

* a trade of its symbol at or after ``E`` is stored, and no trade id before it is missing: that is a proof;
* no such trade is stored, but Kraken was asked about the time up to ``E``, and had nothing else;
* no such trade is stored, but the database's clock and the newest stored trade of any symbol are both past ``E`` by
  the grace: the pipeline is alive, and the symbol quiet. While nothing at all is stored, nothing is closed. This is
  no proof, and holds as far as no symbol's trades come to be stored later than another's by more than the grace;
* candles of later minutes are stored, from a download or from the exchange, and ``E`` is past by the patience.

Ids that are missing inside the ledger keep the candles open in which their trades can lie, until they are stored
or proven absent, but for no longer than the patience after ``E``: then the candle is given out as it is.

A symbol without trades, whose candles were downloaded, has its minutes closed by any later one, and all of them
once nothing was stored of it for the grace.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from kraken_history.completeness.settled import SETTLED
from kraken_history.errors import InvalidNumber
from kraken_history.reading.database import Database


class Timing(Struct, frozen=True, kw_only=True):
    """How long to wait, in seconds.

    Attributes:
        grace_s: After the end of a candle, for trades that are on their way, before its symbol counts as quiet. To be
            longer than ``RECLAIM_AFTER_S`` and five seconds, after which another consumer stores what a dead one
            held, and longer than one of several stream shards lags behind another.
        patience_s: After the end of a candle, for trades that are known to be missing.
        poll_s: Between two looks while no notification comes.
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
        stored_at: When something was last stored of it; another value means that something was.
        has_trades: False if candles alone are stored. Those lie where they may: nothing proves the order of downloads.
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
    clock: datetime | None = None,
    now: datetime | None = None,
) -> list[Settled]:
    """How far each symbol's candles are closed, for a reader who has all that open before its position.

    Args:
        positions: By symbol: a bound of buckets. Missing ids before it keep nothing open. None: nothing was read,
            and nothing is wanted that ended longer ago than the patience.
        width: Length of the candles.
        clock: A recent time of the database's clock; by default, this machine's. If it is ahead, candles may wait
            out the patience; nothing is given out too early.
        now: In place of the database's clock.
    """
    patience = timedelta(seconds=timing.patience_s)
    known_from = (now or clock or datetime.now(UTC)) - patience - width - _LOOK_BACK
    rows = await database.fetch(
        SETTLED,
        list(positions),
        list(positions.values()),
        timedelta(seconds=timing.grace_s),
        patience,
        width,
        known_from,
        now,
    )
    return [Settled(*row) for row in rows]


_LOOK_BACK = timedelta(days=1)
_LONGEST_S = 10 * 366 * 86_400
