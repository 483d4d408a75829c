"""What can be asked of the worker: names and ids of jobs, and putting them into arq's queue.

A job is only ever a reminder. What is to be done is read from the database when it runs, so jobs may be lost,
repeated or late.
"""

import time

import msgspec
from arq.connections import ArqRedis, RedisSettings, create_pool
from redis.exceptions import RedisError

from kraken_history import telemetry
from kraken_history.ledger import IdRange, IdRanges

HEAL = "heal"

encode_job = msgspec.msgpack.encode
decode_job = msgspec.msgpack.decode

_REMEMBERED_S = 300.0
_MOST_REMEMBERED = 10_000
_log = telemetry.get_logger("job-queue")


def redis_settings(redis_url: str) -> RedisSettings:
    """arq's settings for a Redis URL, with patience for a server that is just starting."""
    settings = RedisSettings.from_dsn(redis_url)
    settings.conn_retries = 30
    return settings


async def connect_queue(redis_url: str) -> ArqRedis:
    """Open the queue."""
    return await create_pool(redis_settings(redis_url), job_serializer=encode_job, job_deserializer=decode_job)


class JobQueue:
    """Puts jobs into the queue, each once: the id says what it is about."""

    def __init__(self, arq: ArqRedis, *, heal_delay_s: float = 1.0) -> None:
        self._arq = arq
        self._heal_delay_s = heal_delay_s
        self._asked: dict[tuple[str, IdRange], float] = {}

    async def heal(self, symbol: str, hole: IdRange, *, since: int | None = None, delay_s: float | None = None) -> bool:
        """Ask for the missing ids of one range; False if that is in the queue already.

        The delay lets a hole close by itself that is only a matter of two consumers' order.
        """
        job = await self._arq.enqueue_job(
            HEAL,
            symbol,
            hole[0],
            hole[1],
            since,
            _job_id=f"heal:{symbol}:{hole[0]}:{hole[1]}:{since or ''}",
            _defer_by=self._heal_delay_s if delay_s is None else delay_s,
        )
        return job is not None

    async def heal_new_holes(self, holes: dict[str, IdRanges]) -> None:
        """Ask for the holes that were not asked for lately. Never raises: the worker's sweep asks again."""
        now = time.monotonic()
        if len(self._asked) > _MOST_REMEMBERED:
            self._asked = {hole: at for hole, at in self._asked.items() if now - at < _REMEMBERED_S}
        for symbol, missing in holes.items():
            for hole in missing:
                if now - self._asked.get((symbol, hole), -_REMEMBERED_S) < _REMEMBERED_S:
                    continue
                try:
                    await self.heal(symbol, hole)
                except (RedisError, OSError) as error:
                    _log.warning("heal_not_queued", symbol=symbol, error=str(error))
                    return
                self._asked[symbol, hole] = now
                _log.info("hole", symbol=symbol, first=hole[0], count=hole[1] - hole[0])
