"""Shares the shards among consumers: reads those whose lease this one holds, each by tasks of its own."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumers.consumer import Consumer
from consumers.leases import Leases, held_by, held_counts, quota
from kraken_history.runtime import telemetry
from kraken_history.runtime.tasks import end
from kraken_history.stream.shards import keep_shards

_LEAVE_WITHIN_S = 1.0  # the stop must not wait longer for a Redis that is away; the leases then expire by themselves

_log = telemetry.get_logger("consumer")


class _Reading:
    """One shard that this process reads."""

    def __init__(self, shard: int, consumer: Consumer) -> None:
        self.shard = shard
        self.consumer = consumer
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(consumer.run(self.stop), name=f"shard {shard}")


class SharedConsumer:
    """Reads its fair share of the shards, as consumers come and go.

    A shard that is handed over is read to the end of its batch first, so that nothing is pending. The shards of a
    consumer that died are free when its leases expire; the next reader begins with its pending entries. A consumer
    that cannot reach the database for ``gives_up_after_s``, while others can, leaves its shards to them. So does one
    whose write gets no answer, unless the database answers otherwise: then the write waits for a lock.

    Args:
        consume: Makes the consumer of a shard.
        can_store: Returns within seconds whether the database answers. Called only while writes fail.
        every_s: Seconds between two turns, in which leases are renewed, given back and taken.
        tries_again_after_s: Seconds for which a consumer that gave up leaves the shards to the others at least.
    """

    def __init__(
        self,
        redis: Redis,
        consume: Callable[[int], Consumer],
        can_store: Callable[[], Awaitable[bool]],
        *,
        name: str,
        shards: int,
        every_s: float = 1.0,
        lasts_s: float = 5.0,
        gives_up_after_s: float = 15.0,
        tries_again_after_s: float = 60.0,
    ) -> None:
        self._redis = redis
        self._consume = consume
        self._can_store = can_store
        self._name = name
        self._shards = shards
        self._every_s = every_s
        self._gives_up_after_s = gives_up_after_s
        self._tries_again_after_s = tries_again_after_s
        self._leases = Leases(redis, name=name, shards=shards, lasts_s=lasts_s)
        self._readings: dict[int, _Reading] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        self._ended = {"new_trades": 0, "known_trades": 0, "batches": 0}  # of shards that are read no more
        self._failing_since: float | None = None
        self._gave_up_at: float | None = None
        self._lease_trouble: dict[str, str] = {}

    @property
    def shards(self) -> tuple[int, ...]:
        """The shards that are read now."""
        return tuple(sorted(self._readings))

    @property
    def trouble(self) -> dict[str, str]:
        """Server, ``redis`` or ``database``, → why it cannot be used at the moment; empty while both work."""
        found = dict(self._lease_trouble)
        for reading in self._readings.values():
            found |= reading.consumer.trouble
        if self._gave_up_at is not None:
            found.setdefault("database", "it could not be reached; other consumers read meanwhile")
        return found

    @property
    def is_well(self) -> bool:
        """False while a server fails, or while a call of any shard has had no answer for long."""
        return not self.trouble and all(reading.consumer.is_well for reading in self._readings.values())

    @property
    def new_trades(self) -> int:
        """Trades stored since the start."""
        return self._total("new_trades")

    @property
    def known_trades(self) -> int:
        """Trades received since the start that were stored already."""
        return self._total("known_trades")

    @property
    def batches(self) -> int:
        """Batches written since the start."""
        return self._total("batches")

    def _total(self, what: str) -> int:
        return self._ended[what] + sum(int(getattr(each.consumer, what)) for each in self._readings.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Read and store until ``stop`` is set; then finish all batches, give the leases back, and return.

        Raises:
            WrongShards: The streams are divided into another number of shards.
        """
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self._take_turn_or_note_trouble()
                tasks = [reading.task for reading in self._readings.values()]
                await asyncio.wait([stopping, *tasks], timeout=self._every_s, return_when=asyncio.FIRST_COMPLETED)
                await self._see_who_has_ended()
            await self._leave()
        finally:
            await end(stopping, *self._abandoned, *(reading.task for reading in self._readings.values()))

    async def _take_turn_or_note_trouble(self) -> None:
        try:
            await self._take_turn()
            self._lease_trouble = {}
        except (RedisError, OSError) as error:
            reason = str(error) or type(error).__name__
            if not self._lease_trouble:
                _log.warning("leases_not_renewed", error=reason)
            self._lease_trouble = {"redis": reason}

    async def _take_turn(self) -> None:
        await keep_shards(self._redis, self._shards)
        holders = await self._leases.renew()
        is_able = await self._is_able()
        able = await self._leases.report(is_able=is_able)
        self._stop_lost(holders)
        # If nobody can store, moving a shard would not help.
        wanted = quota(self._name, held_counts(able, holders), self._shards) if able else len(self._readings)
        await self._hand_over_beyond(wanted)
        await self._take_free(wanted, holders)

    async def _is_able(self) -> bool:
        now = time.monotonic()
        consumers = [reading.consumer for reading in self._readings.values()]
        is_failing = any("database" in consumer.trouble for consumer in consumers)
        is_silent = any(consumer.is_stuck for consumer in consumers) and not await self._can_store()
        if self._gave_up_at is not None:
            has_waited = now - self._gave_up_at >= self._tries_again_after_s
            is_back = not (is_failing or is_silent) if self._readings else has_waited and await self._can_store()
            if is_back:
                self._gave_up_at = self._failing_since = None
            return is_back
        self._failing_since = (self._failing_since or now) if is_failing else None
        has_failed = self._failing_since is not None and now - self._failing_since >= self._gives_up_after_s
        if has_failed or is_silent:
            self._gave_up_at = now
        return self._gave_up_at is None

    def _stop_lost(self, holders: dict[int, str]) -> None:
        """Stop to read shards that others hold now, for example because this process was frozen."""
        for shard, reading in self._readings.items():
            if holders.get(shard, self._name) != self._name and not reading.stop.is_set():
                _log.warning("lease_lost", shard=shard, holder=holders[shard])
                reading.stop.set()

    async def _hand_over_beyond(self, wanted: int) -> None:
        reading = [each for each in self._readings.values() if not each.stop.is_set()]
        for each in reading[wanted:]:
            _log.info("hands_over", shard=each.shard)
            each.stop.set()
        if self._gave_up_at is not None:
            for each in [each for each in self._readings.values() if each.stop.is_set()]:
                await self._abandon(each)

    async def _abandon(self, reading: _Reading) -> None:
        """Give a lease back without waiting for a database that is away. The next reader gets the pending entries."""
        reading.task.cancel()
        self._abandoned.add(reading.task)
        reading.task.add_done_callback(self._abandoned.discard)
        self._forget(reading)
        await self._leases.give_back([reading.shard])

    def _forget(self, reading: _Reading) -> None:
        del self._readings[reading.shard]
        for what in self._ended:
            self._ended[what] += getattr(reading.consumer, what)

    async def _take_free(self, wanted: int, holders: dict[int, str]) -> None:
        # Leases that are still ours without a reading are those of an earlier process of this name. One that expired
        # while it was read, as after an outage of Redis, is taken again first.
        own = held_by(self._name, holders)
        free = [shard for shard in range(self._shards) if shard not in holders]
        for shard in [shard for shard in free if shard in self._readings]:
            if not self._readings[shard].stop.is_set() and not await self._leases.take(shard):
                self._readings[shard].stop.set()
        for shard in [*own, *free]:
            if sum(not reading.stop.is_set() for reading in self._readings.values()) >= wanted:
                break
            if shard not in self._readings and (shard in own or await self._leases.take(shard)):
                _log.info("reads", shard=shard)
                self._readings[shard] = _Reading(shard, self._consume(shard))
        surplus = [shard for shard in own if shard not in self._readings]
        await self._leases.give_back(surplus)

    async def _see_who_has_ended(self) -> None:
        ended = [reading for reading in self._readings.values() if reading.task.done()]
        for reading in ended:
            reading.task.result()
            self._forget(reading)
        with suppress(RedisError, OSError):  # they expire
            await self._leases.give_back(reading.shard for reading in ended)

    async def _leave(self) -> None:
        """Finish all batches, keeping the leases of those that take long, and give each lease back."""
        for reading in self._readings.values():
            reading.stop.set()
        while self._readings:
            tasks = [reading.task for reading in self._readings.values()]
            await asyncio.wait(tasks, timeout=self._every_s, return_when=asyncio.FIRST_COMPLETED)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_WITHIN_S):
                    await self._see_who_has_ended()
                    with suppress(RedisError, OSError):
                        await self._leases.renew()
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(_LEAVE_WITHIN_S):
                await self._leases.leave()
