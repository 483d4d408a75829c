"""Redis Streams → database: batch, store, acknowledge."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumers.batch import Batch, Entry
from consumers.group import GroupReader, RawEntry
from consumers.setbacks import MOST_HELD, HeldBack, divide_by_days
from kraken_history.database.failures import DATA_ERRORS, MAY_BE_THE_BATCH, is_transient
from kraken_history.errors import MalformedMessage
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade, group_by_symbol
from kraken_history.runtime import telemetry
from kraken_history.runtime.tasks import end
from kraken_history.storing.sifting import sift
from kraken_history.storing.store import Store, Stored
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetters

T = TypeVar("T")

OnHoles = Callable[[dict[str, IdRanges]], Awaitable[None]]

_READ_COUNT = 200
_IDLE_BLOCK_S = 0.5
_LONGEST_BACKOFF_S = 5.0
_LONGEST_DATABASE_BACKOFF_S = 2.0  # less: what is not stored after an outage is late, and one try costs little
_HELD_POLL_S = 0.5
_MAINTENANCE_EVERY_S = 5.0

STUCK_AFTER_S = 15.0
"""Seconds after which an unanswered write or report of holes makes the consumer unhealthy. It may still succeed."""

_log = telemetry.get_logger("consumer")


class Consumer:
    """Stores the entries of some streams, as one consumer of one group.

    Reading and writing overlap: while the database commits one batch, the next is read and decoded. At most
    three batches are in memory.

    Args:
        shards: Number of streams among which the symbols are divided.
        takes_over: Begin with the pending entries of all other consumers of the group, because they do not read these
            streams any more.
        on_holes: Called after commits that brought trades, with the missing ids of each symbol. Writing does not wait
            for it: the next call gets the latest ids of each symbol. Once writing has ended, it is not called.
    """

    def __init__(
        self,
        redis: Redis,
        store: Store,
        *,
        name: str,
        streams: Sequence[str],
        group: str = wire.STORE_GROUP,
        batch_max_rows: int = 5_000,
        batch_max_age_s: float = 0.05,
        reclaim_after_s: float = 30.0,
        dead_letters_max: int = 100_000,
        shards: int = 1,
        takes_over: bool = False,
        on_holes: OnHoles | None = None,
    ) -> None:
        self._redis = redis
        self._store = store
        self._reader = GroupReader(redis, group=group, consumer=name, streams=streams)
        self._batch = Batch(max_rows=batch_max_rows, max_age_s=batch_max_age_s)
        self._reclaim_after_s = reclaim_after_s
        self._dead_letters = DeadLetters(redis, max_letters=dead_letters_max)
        self._shards = shards
        self._takes_over = takes_over
        self._on_holes = on_holes
        self._due: asyncio.Queue[list[Entry] | None] = asyncio.Queue(maxsize=1)
        self._next_maintenance = 0.0
        self._groups_are_made = False
        self._stop = asyncio.Event()
        self._writing_since: float | None = None
        self._held: dict[tuple[str, bytes], HeldBack] = {}
        self._untold: dict[str, IdRanges] = {}
        self._has_untold = asyncio.Event()
        self._telling_since: float | None = None
        self.new_trades = 0
        self.known_trades = 0
        self.batches = 0
        self.trouble: dict[str, str] = {}
        """Server, ``redis`` or ``database``, → why it cannot be used at the moment; empty while both work."""

    @property
    def is_well(self) -> bool:
        """False while Redis or the database fails, or while a call has had no answer for :data:`STUCK_AFTER_S`."""
        return not self.trouble and not self.is_stuck and not _is_stuck(self._telling_since)

    @property
    def is_stuck(self) -> bool:
        """True while a write has had no answer for :data:`STUCK_AFTER_S`."""
        return _is_stuck(self._writing_since)

    async def run(self, stop: asyncio.Event) -> None:
        """Read and store until ``stop`` is set; then finish the batch, acknowledge it, and return.

        If it is cancelled instead, the next consumer of this name receives the unacknowledged entries again.
        """
        self._stop = stop
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            beside = [tasks.create_task(self._tell_holes()), tasks.create_task(self._try_held_again())]
            await self._write()
            await end(*beside)

    async def _read(self) -> None:
        backoff_s = 0.0
        while not self._stop.is_set():
            try:
                if not self._groups_are_made:
                    await self._reader.ensure_groups()
                    self._groups_are_made = True
                if self._takes_over:
                    await self._reader.take_over()
                    self._takes_over = False
                await self._read_some()
                backoff_s = 0.0
                self._note_recovery("redis")
            except (RedisError, OSError) as error:
                self._groups_are_made = False  # a wiped Redis has none
                self._reader.read_own_pending_again()
                self._note_trouble("redis", error)
                backoff_s = min(max(2 * backoff_s, 0.05), _LONGEST_BACKOFF_S)
                await self._pause(backoff_s)
        if self._batch.entries:
            telemetry.BATCHES.labels(reason="stop").inc()
            await self._due.put(self._batch.take())
        await self._due.put(None)

    async def _read_some(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_maintenance:
            self._next_maintenance = now_s + _MAINTENANCE_EVERY_S
            await self._reader.trim()
            await self._take(await self._reader.reclaim(idle_s=self._reclaim_after_s, count=_READ_COUNT))
        wait_s = self._batch.wait_s(now_s=time.monotonic()) if self._batch.entries else _IDLE_BLOCK_S
        wait_s = min(wait_s, _IDLE_BLOCK_S)  # even if the batch may wait longer: a stop must be noticed
        await self._take(await self._reader.read(count=_READ_COUNT, block_ms=int(wait_s * 1000)))
        await self._hand_over_if_due()

    async def _take(self, raw_entries: Sequence[RawEntry]) -> None:
        for raw in raw_entries:
            if not raw.fields:  # deleted while it was pending
                await self._acknowledge([(raw.stream, raw.id)])
                continue
            try:
                entry, bad_rows = _decode(raw)
            except MalformedMessage as error:
                telemetry.MALFORMED.labels(where="entry").inc()
                await self._bury(raw.stream, raw.id, error.reason, raw.fields)
                continue
            if not await self._put_rows_aside(raw.stream, raw.id, bad_rows):
                continue
            self._batch.add(entry, now_s=time.monotonic())
            await self._hand_over_if_due()

    async def _hand_over_if_due(self) -> None:
        reason = self._batch.due(now_s=time.monotonic())
        if reason:
            telemetry.BATCHES.labels(reason=reason).inc()
            await self._due.put(self._batch.take())

    async def _write(self) -> None:
        while (entries := await self._due.get()) is not None:
            await self._store_and_acknowledge(self._without_wide(entries))

    def _without_wide(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Hold back entries of many days, which take long, so that they are stored beside the others."""
        at_once, later = divide_by_days(entries, most_later=MOST_HELD - len(self._held))
        for entry in later:
            key = (entry.stream, entry.id)
            self._held.setdefault(key, HeldBack(entry, "", time.monotonic(), self.batches, tries=0, failures=0))
        return at_once

    async def _store_and_acknowledge(self, entries: Sequence[Entry]) -> None:
        stored = await self._store_when_possible(entries)
        if stored is not None:
            await self._put_reused_aside(stored.reused)
            await self._acknowledge([(entry.stream, entry.id) for entry in entries])
            self._report(stored)

    async def _store_when_possible(self, entries: Sequence[Entry]) -> Stored | None:
        """Store entries together. Return None if they were split and settled in parts, or left because of a stop."""
        trades = [trade for entry in entries for trade in entry.trades]
        candles = [candle for entry in entries for candle in entry.candles]
        refused = [trade for entry in entries for trade in entry.refused]
        try:
            write = partial(self._store.write, trades, candles, refused=refused)
            return await self._when_possible(write, raising=MAY_BE_THE_BATCH)
        except DATA_ERRORS as error:
            await self._split(entries, error)
            return None
        except MAY_BE_THE_BATCH as error:
            await self._split_or_hold(entries, error)
            return None

    async def _when_possible(
        self, write: Callable[[], Awaitable[T]], *, raising: tuple[type[Exception], ...] = ()
    ) -> T | None:
        """Use the database, and wait while it is away. Return None if it is still away at a stop.

        Args:
            raising: Errors that are raised as long as there is room for entries that are held back.
        """
        backoff_s = 0.0
        while True:
            started = self._writing_since = time.monotonic()
            try:
                result = await write()
                telemetry.WRITE_SECONDS.observe(time.monotonic() - started)
                self._note_recovery("database")
                return result
            except Exception as error:
                if isinstance(error, DATA_ERRORS) or not is_transient(error):
                    raise
                if isinstance(error, raising) and len(self._held) < MOST_HELD:
                    raise
                self._note_trouble("database", error)
            finally:
                self._writing_since = None
            if self._stop.is_set():
                return None  # not acknowledged, so Redis delivers the entries again
            backoff_s = min(max(2 * backoff_s, 0.1), _LONGEST_DATABASE_BACKOFF_S)
            await self._pause(backoff_s)

    async def _split(self, entries: Sequence[Entry], error: Exception) -> None:
        """Halve the entries until each failing one is alone, and that one into its rows; store all others."""
        if len(entries) == 1:
            await self._store_by_rows(entries[0], error)
            return
        half = len(entries) // 2
        await self._store_and_acknowledge(entries[:half])
        await self._store_and_acknowledge(entries[half:])

    async def _split_or_hold(self, entries: Sequence[Entry], error: Exception) -> None:
        """Halve the entries until each that meets a limit of the server is alone; hold that one back."""
        if len(entries) > 1:
            await self._split(entries, error)
            return
        [entry] = entries
        reason = f"{type(error).__name__}: {error}"
        self._note_trouble("database", error)
        self._held.setdefault(
            (entry.stream, entry.id), HeldBack(entry, reason, time.monotonic() + _HELD_POLL_S, self.batches)
        )

    async def _try_held_again(self) -> None:
        """Store the entries that are held back, while others are stored. At a stop they stay pending in Redis."""
        while not self._stop.is_set():
            for key, held in list(self._held.items()):
                if held.due_s <= time.monotonic() and await self._is_settled(held):
                    del self._held[key]
            await self._pause(_HELD_POLL_S)

    async def _is_settled(self, held: HeldBack) -> bool:
        """Try an entry that is held back; return whether it is stored or put aside."""
        entry = held.entry
        try:
            stored = await self._store.write(entry.trades, entry.candles, refused=entry.refused)
        except Exception as error:
            if isinstance(error, DATA_ERRORS):
                await self._store_by_rows(entry, error)
                return True
            if not is_transient(error):
                raise
            held.note_failure(f"{type(error).__name__}: {error}", now_s=time.monotonic(), stored=self.batches)
            if held.is_hopeless:
                await self._bury(entry.stream, entry.id, held.reason, entry.fields)
            return held.is_hopeless
        await self._put_reused_aside(stored.reused)
        await self._acknowledge([(entry.stream, entry.id)])
        self._report(stored)
        self._note_recovery("database")
        return True

    async def _store_by_rows(self, entry: Entry, error: Exception) -> None:
        """Store the rows of an entry that the database accepts, and put the others aside.

        If it refuses each row of many, or none of them alone, the whole entry is put aside, and its ids are missing.
        """
        sifted = await self._when_possible(partial(sift, self._store, entry.trades))
        if sifted is None:
            return
        if sifted.proves_nothing:
            await self._bury(entry.stream, entry.id, f"{type(error).__name__}: {error}", entry.fields)
            return
        bad_rows = [wire.BadRow(why, wire.encode([trade])) for trade, why in sifted.rejects]
        if not await self._put_rows_aside(entry.stream, entry.id, bad_rows):
            return
        for trade, _ in sifted.rejects:
            telemetry.REFUSED.labels(symbol=trade.symbol).inc()
        refused = [*entry.refused, *sifted.refused]
        try:
            stored = await self._when_possible(partial(self._store.write, sifted.trades, refused=refused))
        except DATA_ERRORS as problem:
            await self._bury(entry.stream, entry.id, f"{type(problem).__name__}: {problem}", entry.fields)
            return
        if stored is not None:
            await self._put_reused_aside(stored.reused)
            await self._acknowledge([(entry.stream, entry.id)])
            self._report(stored)

    async def _put_rows_aside(self, stream: str, id_: bytes, rows: Sequence[wire.BadRow]) -> bool:
        """Make a dead letter of each row; return False if Redis is away, so that the entry must be read again."""
        try:
            for row in rows:
                await self._dead_letters.put(stream, id_.decode(), row.reason, row.fields)
        except (RedisError, OSError) as error:
            self._reader.read_own_pending_again()
            self._note_trouble("redis", error)
            return False
        return True

    async def _put_reused_aside(self, trades: Sequence[HistoricalTrade]) -> None:
        for symbol, group in group_by_symbol(trades).items():
            telemetry.REUSED.labels(symbol=symbol).inc(len(group))
            _log.error("ids_begin_again", symbol=symbol, first=group[0].id, count=len(group))
        try:
            await self._dead_letters.put_reused(trades, shards=self._shards)
        except (RedisError, OSError) as error:  # their ids are recorded and counted
            self._note_trouble("redis", error)

    async def _bury(self, stream: str, id_: bytes, reason: str, fields: dict[bytes, bytes]) -> None:
        try:
            # Dead letter first: a crash in between causes a second letter, never a lost entry.
            await self._dead_letters.put(stream, id_.decode(), reason, fields)
            await self._reader.acknowledge([(stream, id_)])
        except (RedisError, OSError) as error:
            self._reader.read_own_pending_again()
            self._note_trouble("redis", error)

    async def _acknowledge(self, ids: Sequence[tuple[str, bytes]]) -> None:
        try:
            await self._reader.acknowledge(ids)
        except (RedisError, OSError) as error:
            # The rows are committed. If the entries are read again, their trades are already known.
            self._reader.read_own_pending_again()
            self._note_trouble("redis", error)

    def _report(self, stored: Stored) -> None:
        self.batches += 1
        self.new_trades += stored.new_trades
        self.known_trades += stored.known_trades
        telemetry.STORED.labels(outcome="new").inc(stored.new_trades)
        telemetry.STORED.labels(outcome="known").inc(stored.known_trades)
        _log.debug(
            "stored", new=stored.new_trades, known=stored.known_trades, missing=sum(map(len, stored.holes.values()))
        )
        for symbol, group in group_by_symbol(stored.waiting).items():
            telemetry.WAITING.labels(symbol=symbol).inc(len(group))
            _log.error("id_leaps", symbol=symbol, first=group[0].id, count=len(group))
        self._untold |= stored.holes
        self._has_untold.set()

    async def _tell_holes(self) -> None:
        while self._on_holes is not None:
            await self._has_untold.wait()
            self._has_untold.clear()
            holes, self._untold = self._untold, {}
            self._telling_since = time.monotonic()
            await self._on_holes(holes)
            self._telling_since = None

    def _note_trouble(self, server: str, error: BaseException) -> None:
        if server not in self.trouble:
            _log.warning("waiting", server=server, error=str(error) or type(error).__name__)
        self.trouble[server] = str(error) or type(error).__name__

    def _note_recovery(self, server: str) -> None:
        if self.trouble.pop(server, None):
            _log.info("going_on", server=server)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but return early on a stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass


def _is_stuck(since: float | None) -> bool:
    return since is not None and time.monotonic() - since > STUCK_AFTER_S


def _decode(raw: RawEntry) -> tuple[Entry, Sequence[wire.BadRow]]:
    if wire.holds_candles(raw.stream):
        return Entry(raw.stream, raw.id, [], wire.decode_candles(raw.fields), raw.fields), ()
    found = wire.decode_trades_entry(raw.fields)
    return Entry(raw.stream, raw.id, found.trades, [], raw.fields, found.refused), found.bad_rows
