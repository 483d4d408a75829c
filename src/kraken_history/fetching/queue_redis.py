"""arq's client with our names and encoding, which reports a lost connection instead of taking it for a taken job."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

import msgspec
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.utils import to_ms
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer
from redis.exceptions import WatchError

from kraken_history.records import utc_from_unix_ns
from kraken_history.runtime.redis_connections import prefix_of


def _in_words(value: object) -> str:
    """Encode an exception as text: arq always stores the exception of a failed job as its result."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    raise NotImplementedError(f"expected a value that MessagePack can encode, got a {type(value).__name__}")


encode_job = msgspec.msgpack.Encoder(enc_hook=_in_words).encode
decode_job = msgspec.msgpack.decode


class PrefixingPipeline(Pipeline):
    """A pipeline of :class:`QueueRedis`, which counts the transactions that lost their connection."""

    queue: "QueueRedis"

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        return super().execute_command(*_prefixed(self.queue.prefix, args), **options)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """As redis-py's."""
        try:
            answers: list[Any] = await super().execute(raise_on_error)
        except WatchError as error:
            if is_cut(error):
                self.note_cut(str(error.__context__))
            raise
        return answers

    async def reset(self) -> None:
        """As redis-py's, which asks a server to forget watched keys even if their connection, and so they, are gone."""
        if self.connection is not None and not self.connection.is_connected:
            self.watching = False
        try:
            await super().reset()  # type: ignore[no-untyped-call]
        except BaseException as error:  # a cancellation too closes the connection
            self.watching = False
            await super().reset()  # type: ignore[no-untyped-call]
            if not isinstance(error, NoConnection | NoAnswer):
                raise

    def note_cut(self, why: str) -> None:
        """Count a transaction of which nobody knows whether it was executed."""
        self.queue.cuts += 1
        self.queue.why_cut = why


class QueueRedis(ArqRedis):
    """arq's client, whose queue and keys all begin with our prefix.

    arq lets one choose the name of its queue, but not of its keys: ``arq:job:…``, ``arq:in-progress:…``,
    ``arq:retry:…`` and ``arq:result:…`` are the same for every application. So these names change on their way.

    A job is due by the clock of Redis. With arq it is due by the clock of the host that requested it, and taken by the
    clock of the worker.
    """

    kind_of_pipeline: ClassVar[type[PrefixingPipeline]] = PrefixingPipeline

    def __init__(self, pool: ConnectionPool) -> None:
        super().__init__(pool_or_conn=pool, job_serializer=encode_job, job_deserializer=decode_job)
        self.prefix = prefix_of(self)
        self.cuts = 0  # transactions whose connection was lost, so that it is unknown whether they were executed
        self.why_cut = ""
        self.default_queue_name = queue_name(self.prefix)

    async def enqueue_job(
        self,
        function: str,
        *args: Any,
        _defer_until: datetime | None = None,
        _defer_by: float | timedelta | None = None,
        _expires: float | timedelta | None = None,
        **options: Any,
    ) -> Job | None:
        """As arq's; ``_defer_until`` is a time of Redis' clock.

        arq takes a connection that is lost in the transaction for a job that is in the queue already.

        Raises:
            redis.exceptions.ConnectionError: The connection was lost. The job may be in the queue.
        """
        now = await now_of(self)
        due = now + timedelta(milliseconds=to_ms(_defer_by) or 0) if _defer_until is None else _defer_until
        lasts = max(due - now, timedelta()) + timedelta(milliseconds=self.expires_extra_ms)
        cuts = self.cuts
        job = await super().enqueue_job(function, *args, _defer_until=due, _expires=_expires or lasts, **options)
        if job is None and self.cuts != cuts:
            raise NoConnection(f"the job may not have been added to the queue: {self.why_cut}")
        return job

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        command = super().execute_command(*_prefixed(self.prefix, args), **options)  # type: ignore[no-untyped-call]
        return await command

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """As redis-py's."""
        pipeline = self.kind_of_pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.queue = self
        return pipeline


def is_cut(error: WatchError) -> bool:
    """True if the watched keys may be as they were: redis-py also raises this for a lost connection."""
    return isinstance(error.__context__, (NoConnection, NoAnswer, OSError))


def _prefixed(prefix: str, args: tuple[Any, ...]) -> list[Any]:
    """The arguments of a command, in which each of arq's own names follows our prefix."""
    return [f"{prefix}:{arg}" if isinstance(arg, str) and arg.startswith(_ARQ) else arg for arg in args]


_ARQ = "arq:"


def queue_name(prefix: str) -> str:
    """The name of our queue of jobs."""
    return f"{prefix}:jobs"


async def now_of(redis: Redis) -> datetime:
    """The clock of Redis."""
    seconds, microseconds = await redis.time()
    return utc_from_unix_ns((seconds * 1_000_000 + microseconds) * 1_000)


def queue_on(redis: Redis) -> ArqRedis:
    """The queue on an existing client, which the caller closes."""
    return QueueRedis(redis.connection_pool)
