"""The worker's jobs: their names and ids, and adding them to arq's queue.

A job is only a reminder. When it runs, it reads from the database what to do, so jobs may be lost, repeated or late.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from arq.connections import ArqRedis, RedisSettings
from redis.exceptions import RedisError

from kraken_history.errors import UsageError
from kraken_history.fetching.queue_redis import decode_job as decode_job
from kraken_history.fetching.queue_redis import encode_job as encode_job
from kraken_history.fetching.queue_redis import now_of
from kraken_history.fetching.queue_redis import queue_on as queue_on
from kraken_history.kraken.rest import TRADES_PAGE
from kraken_history.ledger import IdRange, IdRanges, neighbourhoods
from kraken_history.records import unix_ns
from kraken_history.runtime import telemetry
from kraken_history.runtime.arq_settings import arq_settings
from kraken_history.runtime.redis_urls import EXAMPLE, read_redis_url
from kraken_history.urls import InvalidUrl

HEAL = "heal"
BACKFILL = "backfill"
SWEEP_BACKFILLS = "sweep-backfills"
FILL_GAP = "fill-gap"
REFRESH = "refresh"
FETCH_INDICATOR_HISTORY = "fetch-indicator-history"
IMPORT_CSV = "import-csv"
FETCH_OHLC = "fetch-ohlc"
CONFIRM = "confirm"


_REMEMBERED_S = 300.0  # a requested hole is not requested again within this time
_MOST_REMEMBERED = 1_000  # requested holes per symbol
_MOST_HEALED = 100  # runs of holes per symbol and sweep, newest first; later sweeps request the others
_LATEST_S: Mapping[str, float] = {
    HEAL: 30.0,
    FILL_GAP: 30.0,
    FETCH_OHLC: 30.0,
    CONFIRM: 30.0,
    BACKFILL: 60.0,
    IMPORT_CSV: 120.0,
}
_LATEST_OF_OTHERS_S = 900.0
"""Seconds ahead of which no job is due, by its name and for all others: a little more than the longest delay of each.

If one is, a clock was wrong when it was requested: that of an older version's host, or Redis' own.
"""
_SETTLING_S = 2.0  # for the consumer to store the first trades of a connection

_log = telemetry.get_logger("job-queue")


def redis_settings(redis_url: str) -> RedisSettings:
    """The settings for arq's own connections, for example of ``arq --check``.

    Raises:
        UsageError: The URL is not a Redis URL.
    """
    try:
        settings = arq_settings(read_redis_url(redis_url))
    except InvalidUrl as error:
        raise UsageError(f"expected REDIS_URL like {EXAMPLE} ({error})") from error
    settings.conn_retries = 30
    return settings


class JobQueue:
    """Adds jobs to the queue. Each job is queued once: its id names its subject."""

    def __init__(self, arq: ArqRedis, *, heal_delay_s: float = 1.0) -> None:
        self._arq = arq
        self._heal_delay_s = heal_delay_s
        self._asked: dict[str, list[tuple[float, IdRange]]] = {}

    async def heal(self, symbol: str, hole: IdRange, *, since: int | None = None, delay_s: float | None = None) -> bool:
        """Request the missing ids of one range; return False if the same job is in the queue already.

        During the delay, a hole that exists only because of the order of two consumers closes by itself.
        """
        job = await self._arq.enqueue_job(
            HEAL,
            symbol,
            hole[0],
            hole[1],
            since,
            _job_id=f"{HEAL}:{symbol}:{hole[0]}:{hole[1]}:{since or ''}",
            _defer_by=self._heal_delay_s if delay_s is None else delay_s,
        )
        return job is not None

    async def heal_holes(self, holes: Mapping[str, IdRanges]) -> int:
        """Request holes, neighbours together, unless a queued or running job covers them; return the count of new jobs.

        A hole that is being healed shrinks from its beginning. The rest of it does not count as a new hole.
        """
        asked = 0
        queued = await self._ranges_in_queue() if holes else {}
        for symbol, missing in holes.items():
            for hole in neighbourhoods(missing, within=TRADES_PAGE)[-_MOST_HEALED:]:
                if not _covers(queued.get(symbol, ()), hole):
                    asked += await self.heal(symbol, hole, delay_s=0)
        return asked

    async def backfill(self, symbol: str, run: int, *, delay_s: float = 0.0) -> bool:
        """Request the next pages of a symbol's backfill; return False if a job for this run is in the queue already."""
        job = await self._arq.enqueue_job(BACKFILL, symbol, _job_id=f"{BACKFILL}:{symbol}:{run}", _defer_by=delay_s)
        return job is not None

    async def sweep_backfills(self, *, delay_s: float) -> None:
        """Request a later check for backfills without a worker."""
        await self._arq.enqueue_job(SWEEP_BACKFILLS, _defer_by=delay_s)

    async def fetch_indicator_history(self) -> None:
        """Request the whole history of the enabled external indicators."""
        await self._arq.enqueue_job(FETCH_INDICATOR_HISTORY, _job_id=FETCH_INDICATOR_HISTORY)

    async def heal_new_holes(self, holes: dict[str, IdRanges]) -> None:
        """Request holes that were not requested recently. Never raises: the worker's sweep requests them again."""
        now = time.monotonic()
        for symbol, missing in holes.items():
            asked = self._asked[symbol] = [
                (at, hole) for at, hole in self._asked.get(symbol, ()) if now - at < _REMEMBERED_S
            ][-_MOST_REMEMBERED:]
            for hole in neighbourhoods(missing, within=TRADES_PAGE):
                if _covers([range_ for _, range_ in asked], hole):
                    continue
                try:
                    await self.heal(symbol, hole)
                except (RedisError, OSError) as error:
                    _log.warning("heal_not_queued", symbol=symbol, error=str(error))
                    return
                asked.append((now, hole))
                _log.info("hole", symbol=symbol, first=hole[0], count=hole[1] - hole[0])

    async def fill_gap(
        self, symbol: str, *, min_gap_minutes: float = 2, turn: int | None = None, delay_s: float = 0
    ) -> bool:
        """Request the detection and filling of a symbol's gaps; return False if a job for it exists already.

        Args:
            turn: The turn of the running job, if that job requests its successor: its own id is taken until it ends.
        """
        ids = [f"{FILL_GAP}:{symbol}:{each}" for each in (0, 1)]
        if turn is None:
            for id_ in ids:
                if await self._arq.zscore(self._arq.default_queue_name, id_) is not None:
                    return False
        next_turn = 0 if turn is None else 1 - turn
        job = await self._arq.enqueue_job(
            FILL_GAP, symbol, float(min_gap_minutes), next_turn, _job_id=ids[next_turn], _defer_by=delay_s
        )
        return job is not None

    async def fill_gaps(self, symbols: Iterable[str], *, min_gap_minutes: float = 2, delay_s: float = 0) -> int:
        """Call :meth:`fill_gap` for several symbols; return the number of new jobs."""
        return sum([await self.fill_gap(s, min_gap_minutes=min_gap_minutes, delay_s=delay_s) for s in symbols])

    async def fill_gaps_after_connecting(self, symbols: Iterable[str]) -> None:
        """As :meth:`fill_gaps`, after the first trades of a connection are stored.

        Never raises: the worker requests the same periodically.
        """
        try:
            await self.fill_gaps(symbols, delay_s=self._heal_delay_s + _SETTLING_S)
        except (RedisError, OSError) as error:
            _log.warning("gap_fill_not_queued", error=str(error) or type(error).__name__)

    async def import_csv(self, paths: Sequence[str], *, symbol: str | None = None) -> bool:
        """Request the import of files, folders and zips that the worker can read; False if it is queued already."""
        job = await self._arq.enqueue_job(
            IMPORT_CSV, list(paths), symbol, _job_id=":".join([IMPORT_CSV, symbol or "", *paths])
        )
        return job is not None

    async def fetch_ohlc(self, symbol: str) -> bool:
        """Request the exchange's latest candles of each interval; return False if that is in the queue already."""
        return await self._arq.enqueue_job(FETCH_OHLC, symbol, _job_id=f"{FETCH_OHLC}:{symbol}") is not None

    async def confirm(self, symbol: str) -> bool:
        """Request that Kraken is asked about a symbol's waiting trades; False if that is in the queue already."""
        return await self._arq.enqueue_job(CONFIRM, symbol, _job_id=f"{CONFIRM}:{symbol}") is not None

    async def refresh(self, *, delay_s: float = 0) -> bool:
        """Request a refresh of the longer intervals, after a burst; return False if it is in the queue already.

        Without this request, the worker refreshes them within a minute.
        """
        return await self._arq.enqueue_job(REFRESH, _job_id=REFRESH, _defer_by=delay_s) is not None

    async def bring_forward(self) -> int:
        """Make jobs due that are due much later than any job is requested for; return how many.

        They would not run until that time, while their ids keep others from requesting the same work.
        """
        now_ms = unix_ns(await now_of(self._arq)) // 1_000_000
        queue, late = self._arq.default_queue_name, []
        for id_, due_ms in await self._arq.zrange(queue, 0, -1, withscores=True):
            latest_s = _LATEST_S.get(id_.decode().partition(":")[0], _LATEST_OF_OTHERS_S)
            if due_ms > now_ms + 1_000 * latest_s:
                late.append(id_)
        if late:
            # XX and LT: a job that has ended meanwhile is not added, and none becomes later.
            await self._arq.zadd(queue, dict.fromkeys(late, now_ms), xx=True, lt=True)
            _log.warning("jobs_brought_forward", count=len(late), first=late[0].decode())
        return len(late)

    async def _ranges_in_queue(self) -> dict[str, list[IdRange]]:
        """By symbol, the id ranges of queued and running jobs. arq removes a job from the queue when it ends."""
        ranges: dict[str, list[IdRange]] = {}
        for id_ in await self._arq.zrange(self._arq.default_queue_name, 0, -1):
            match id_.decode().split(":"):
                case [name, symbol, first, stop, _] if name == HEAL:
                    ranges.setdefault(symbol, []).append((int(first), int(stop)))
        return ranges


def _covers(ranges: Iterable[IdRange], hole: IdRange) -> bool:
    return any(start <= hole[0] and hole[1] <= stop for start, stop in ranges)
