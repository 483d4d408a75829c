"""Publishes trades and candles into Redis Streams, in micro-batches, with bounded memory.

Adding records never waits. :meth:`Publisher.run` publishes them, one entry per symbol and micro-batch. If Redis is
unavailable or a stream is full, records wait in a buffer. If the buffer is full too, new records are dropped and
counted. Dropped trades leave a hole in the ledger, which the worker heals.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.websocket import candle_from_dict, trades_from_dict
from kraken_history.records import MINUTE, HistoricalCandle, HistoricalTrade, RefusedTrade, group_by_symbol
from kraken_history.runtime import telemetry
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.tasks import end
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetters
from kraken_history.stream.shards import claim_shards, keep_shards

_LONGEST_BACKOFF_S = 2.0  # between two attempts while Redis is unavailable or a stream is full
_LAST_WORD_S = 5.0  # to publish the rest when the publisher ends; less time than a service has to stop
_LOOK_AT_CANDLES_EVERY_S = 1.0
_CLOCK_SLACK = timedelta(seconds=2)  # for the last trades of a minute, and for a clock that is slightly fast
_MOST_FRAMES_WAITING = 1_000  # buffered frames and rows that could not be decoded; further ones are only counted

_log = telemetry.get_logger("publisher")


class Publisher:
    """Publishes into the streams of one Redis. ``async with`` runs it, and publishes the remaining records at its end.

    If the streams are divided into another number of shards, ``async with`` raises ``UsageError``.

    Args:
        shards: Number of streams among which the symbols are divided; must be the same in every process.
        stream_max_entries: Entries in a stream at which publishing stops until consumers catch up.
        publish_after_s: Seconds that a record waits for others to share its entry.
        entry_max_trades: Maximum number of trades per entry.
        buffer_max_trades: Maximum number of trades in the buffer; further ones are dropped.
        now: Clock that decides whether a candle's minute is over.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        shards: int = 1,
        stream_max_entries: int = 200_000,
        publish_after_s: float = 0.02,
        entry_max_trades: int = 200,
        buffer_max_trades: int = 200_000,
        dead_letters_max: int = 100_000,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._holds_running_candles = True
        self._redis = redis
        self._prefix = prefix_of(redis)
        self._shards = shards
        self._stream_max_entries = stream_max_entries
        self._publish_after_s = publish_after_s
        self._entry_max_trades = entry_max_trades
        self._buffer_max_trades = buffer_max_trades
        self._dead_letters = DeadLetters(redis, max_letters=dead_letters_max)
        self._trades: list[HistoricalTrade] = []
        self._candles: dict[tuple[str, datetime], HistoricalCandle] = {}
        self._malformed: list[MalformedMessage] = []
        self._refused: list[RefusedTrade] = []
        self._waiting = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.published_trades = 0
        self.let_go_trades = 0
        self.is_held_back = False
        """True while Redis is unavailable or a stream is full, so that records wait in the buffer."""

    async def __aenter__(self) -> "Publisher":
        with suppress(RedisError, OSError):  # it is compared again before anything is published
            await claim_shards(self._redis, self._shards)
        self._task = asyncio.create_task(self.run(), name="publisher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        ends_at = asyncio.get_running_loop().time() + _LAST_WORD_S
        with suppress(TimeoutError):  # what is on its way is waited for: if it were cancelled, it would be sent twice
            async with asyncio.timeout_at(ends_at), self._publishing:
                self._task.cancel()
        await end(self._task)
        if self.waiting_trades or self._candles or self._malformed or self._refused:
            await self._publish_the_rest(ends_at)
        if error is None and not self._task.cancelled():
            self._task.result()

    async def failure(self) -> None:
        """Never returns; raises the exception that stopped the publisher.

        Outages are handled, so this is always a bug.
        """
        assert self._task is not None
        await asyncio.shield(self._task)

    @property
    def waiting_trades(self) -> int:
        """Number of trades in the buffer that are not published yet."""
        return len(self._trades)

    def add_trades(self, trades: Sequence[HistoricalTrade]) -> None:
        """Add trades to the buffer, or drop them if it is full. Never waits."""
        room = self._buffer_max_trades - len(self._trades)
        if room < len(trades):
            self._let_go(len(trades) - max(room, 0))
            trades = trades[: max(room, 0)]
        if trades:
            self._trades.extend(trades)
            self._waiting.set()

    def add_candles(self, candles: Sequence[HistoricalCandle]) -> None:
        """Add running candles; the latest of each minute is published when the minute is over. Never waits.

        The trades of a running minute arrive at the same time and form its candle. If the exchange's candle were
        published too, a trade or two ahead of them, it would replace that candle repeatedly, and each time the
        database would rebuild the minute from its trades. In busy minutes that was most of the database's work.
        """
        for candle in candles:
            key = candle.symbol, candle.timestamp
            if key not in self._candles and len(self._candles) >= self._buffer_max_trades:
                telemetry.DISCARDED.labels(kind="candle").inc()
                continue
            self._candles[key] = candle
        if candles:
            self._waiting.set()

    def add_malformed(self, error: MalformedMessage) -> None:
        """Add a frame that could not be decoded, for the dead-letter stream. Never waits."""
        telemetry.MALFORMED.labels(where="frame").inc()
        if len(self._malformed) < _MOST_FRAMES_WAITING:
            self._malformed.append(error)
            self._waiting.set()
        else:
            telemetry.DEAD_LETTERS.labels(kept="false").inc()

    def add_refused(self, refused: Sequence[RefusedTrade]) -> None:
        """Add trades that cannot be stored, for the dead-letter stream and for the consumers. Never waits.

        A consumer records their ids, so that nothing waits for them. If the buffer is full, further ones are only
        counted, and their ids are missing.
        """
        for trade in refused:
            telemetry.REFUSED.labels(symbol=trade.symbol).inc()
            if len(self._refused) < _MOST_FRAMES_WAITING:
                self._refused.append(trade)
                self._waiting.set()
            else:
                telemetry.DEAD_LETTERS.labels(kept="false").inc()

    async def run(self) -> None:
        """Publish until cancelled. Records that are not published by then stay in the buffer."""
        backoff_s = 0.0
        while True:
            await self._something_to_publish()
            await asyncio.sleep(max(self._publish_after_s, backoff_s))
            self._waiting.clear()
            if await self._publish_or_hold_back():
                backoff_s = 0.0
            else:
                self._waiting.set()
                backoff_s = min(max(2 * backoff_s, 0.05), _LONGEST_BACKOFF_S)

    async def _something_to_publish(self) -> None:
        """Wait for a record, but at most a second while running candles are buffered."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AT_CANDLES_EVERY_S if self._candles else None):
                await self._waiting.wait()

    async def _publish_the_rest(self, ends_at: float) -> None:
        """Publish the buffered records, or count them as dropped if that is not done by `ends_at`."""
        self._holds_running_candles = False
        is_published = False
        try:
            is_published = await self._publish_or_hold_back(ends_at)
        finally:
            if not is_published:
                self._count_as_dropped()

    def _count_as_dropped(self) -> None:
        self._let_go(len(self._trades))
        telemetry.DISCARDED.labels(kind="candle").inc(len(self._candles))
        telemetry.DEAD_LETTERS.labels(kept="false").inc(len(self._malformed) + len(self._refused))

    async def _publish_or_hold_back(self, ends_at: float | None = None) -> bool:
        try:
            async with asyncio.timeout_at(ends_at), self._publishing:
                await keep_shards(self._redis, self._shards)
                reason = await self._publish()
        except (RedisError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        if reason and not self.is_held_back:
            _log.warning("held_back", reason=reason, waiting_trades=self.waiting_trades)
        elif self.is_held_back and not reason:
            _log.info("publishing_again", let_go_trades=self.let_go_trades)
        self.is_held_back = bool(reason)
        return not reason

    async def _publish(self) -> str:
        """Publish all buffered records, in batches; return the reason if a stream is full, else an empty string."""
        while self._malformed:
            await self._dead_letters.put_frame(self._malformed[0])
            del self._malformed[0]
        while self._refused:
            # The letter first: if this is cancelled in between, there are two letters, rather than none.
            await self._dead_letters.put_refused(self._refused[0])
            await self._send_refused(self._refused[0])
            del self._refused[0]
        while (candles := self._candles_that_are_over()) or self._trades:
            # Records are removed only after Redis has them. If this is cancelled in between, they are published twice,
            # which the ledger tolerates, rather than lost.
            trades = self._trades[: 50 * self._entry_max_trades]
            if full := await self._full_stream():
                return f"{full} has reached its limit of {self._stream_max_entries} entries"
            await self._send(trades, list(candles.values()))
            del self._trades[: len(trades)]
            for key, candle in candles.items():
                if self._candles[key] is candle:
                    del self._candles[key]
        return ""

    def _candles_that_are_over(self) -> dict[tuple[str, datetime], HistoricalCandle]:
        if not self._holds_running_candles:
            return dict(self._candles)
        over_before = self._now() - MINUTE - _CLOCK_SLACK
        return {key: candle for key, candle in self._candles.items() if candle.timestamp <= over_before}

    async def _full_stream(self) -> str:
        names = [
            of_kind(shard, self._prefix)
            for shard in range(self._shards)
            for of_kind in (wire.trades_stream, wire.candles_stream)
        ]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.xlen(name)
            lengths = await pipeline.execute()
        return next((name for name, n in zip(names, lengths, strict=True) if n >= self._stream_max_entries), "")

    async def _send(self, trades: Sequence[HistoricalTrade], candles: Sequence[HistoricalCandle]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for symbol, group in group_by_symbol(trades).items():
                stream = wire.trades_stream(wire.shard_of(symbol, self._shards), self._prefix)
                for at in range(0, len(group), self._entry_max_trades):
                    pipeline.xadd(stream, wire.encode(group[at : at + self._entry_max_trades]))
            for symbol, running in group_by_symbol(candles).items():
                stream = wire.candles_stream(wire.shard_of(symbol, self._shards), self._prefix)
                pipeline.xadd(stream, wire.encode(running))
            await pipeline.execute()
        self.published_trades += len(trades)
        telemetry.PUBLISHED.labels(kind="trade").inc(len(trades))
        telemetry.PUBLISHED.labels(kind="candle").inc(len(candles))

    async def _send_refused(self, trade: RefusedTrade) -> None:
        stream = wire.trades_stream(wire.shard_of(trade.symbol, self._shards), self._prefix)
        await self._redis.xadd(stream, wire.encode((), [trade]))

    def _let_go(self, count: int) -> None:
        if count and not self.let_go_trades:
            _log.error("letting_trades_go", buffered=len(self._trades))
        self.let_go_trades += count
        telemetry.DISCARDED.labels(kind="trade").inc(count)


Handler = Callable[..., Any]


def attach(ws_client: Any, publisher: Publisher) -> None:
    """Publish the trades and candles that your own WebSocket client receives.

    Wraps the client's ``on_trade(symbol, dict)`` and ``on_ohlc(symbol, dict, interval=1)``, plain or async.
    The dicts are rows of Kraken's WebSocket v2; the original handler, if any, is called afterwards. A
    dict that is not a trade or candle becomes a dead letter and does not affect the client.

    Args:
        ws_client: Any object; its two handlers are replaced.
        publisher: A running publisher, in the same event loop.
    """

    def take_trade(symbol: str, row: Mapping[str, Any]) -> None:
        frame = trades_from_dict(symbol, row)
        publisher.add_trades(frame.trades)
        publisher.add_refused(frame.refused)

    def take_candle(symbol: str, row: Mapping[str, Any], interval: int = 1) -> None:
        if interval == 1 and (candle := candle_from_dict(symbol, row)).interval_minutes == 1:
            publisher.add_candles([candle])  # longer ones are aggregated from one-minute candles

    ws_client.on_trade = _followed_by(getattr(ws_client, "on_trade", None), take_trade, publisher)
    ws_client.on_ohlc = _followed_by(getattr(ws_client, "on_ohlc", None), take_candle, publisher)


def _followed_by(original: Handler | None, take: Handler, publisher: Publisher) -> Handler:
    def try_to_take(*args: Any, **kwargs: Any) -> None:
        try:
            take(*_in_order(original, args, kwargs))
        except MalformedMessage as error:
            publisher.add_malformed(error)
        except (TypeError, ValueError) as error:  # not called with a symbol and a dict
            payload = repr((args, kwargs)).encode(errors="backslashreplace")
            publisher.add_malformed(MalformedMessage(str(error), payload))

    def plain(*args: Any, **kwargs: Any) -> Any:
        try_to_take(*args, **kwargs)
        return _Done() if original is None else original(*args, **kwargs)

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        try_to_take(*args, **kwargs)
        assert original is not None
        return await original(*args, **kwargs)

    return awaited if inspect.iscoroutinefunction(original) else plain


def _in_order(original: Handler | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call by position, regardless of the handler's parameter names."""
    if original is None or not kwargs:
        return (*args, *kwargs.values())
    bound = inspect.signature(original).bind(*args, **kwargs)
    return (*bound.args, *bound.kwargs.values())


class _Done:
    """Result for a client without a handler of its own: the client may await it or not."""

    def __await__(self) -> Iterator[None]:
        return iter(())
