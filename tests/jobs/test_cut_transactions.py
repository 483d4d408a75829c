"""A connection that is lost in the middle of a transaction of arq's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.worker import Worker, func
from redis.asyncio import Redis
from redis.exceptions import RedisError

from jobs.patience import Patience, PatientRedis
from kraken_history.fetching.queue import JobQueue, decode_job, encode_job
from tests.support.proxy import Proxy
from tests.support.queue import connect_queue
from tests.support.waiting import until

CUTS = [(b"WATCH", False), (b"EXISTS", False), (b"ZSCORE", False), (b"EXEC", False), (b"EXEC", True)]


class Scissors(Proxy):
    """Cuts the connection of a client once, when it sends a certain command."""

    command = b""
    is_executed = False
    """Whether the server receives the command; its answer is then lost."""

    has_cut = False
    _drops_answer = False

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        while data := await source.read(65536):
            is_it = self.command and b"\r\n%b\r\n" % self.command in data
            if self._drops_answer or (is_it and not self.is_executed):
                self.command, self._drops_answer, self.has_cut = b"", False, True
                break
            if is_it:
                self.command, self._drops_answer = b"", True
            sink.write(data)
            await sink.drain()
        sink.transport.abort()


@pytest.fixture
async def proxy(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scissors]:
    monkeypatch.setattr(Patience, "lasts_as_long_as", None)
    async with Scissors(redis_url) as proxy:
        yield proxy


@pytest.mark.parametrize(("command", "is_executed"), CUTS)
async def test_a_worker_goes_on_and_does_the_job(
    proxy: Scissors, redis_url: str, command: bytes, is_executed: bool
) -> None:
    # It ended with a WatchError, or left the job to another worker for as long as the longest job may take.
    done: list[int] = []

    async def job(_: dict[str, Any], number: int) -> None:
        done.append(number)

    async with await connect_queue(redis_url) as queue:
        await queue.enqueue_job("job", 1, _job_id="id")
    async with PatientRedis.at(proxy.url) as redis:
        worker = Worker(
            [func(job, name="job", keep_result=0)],  # type: ignore[arg-type]
            redis_pool=redis,
            queue_name=redis.default_queue_name,
            job_serializer=encode_job,
            job_deserializer=decode_job,
            handle_signals=False,
            poll_delay=0.01,
        )
        proxy.command, proxy.is_executed = command, is_executed
        running = asyncio.create_task(worker.async_run())
        try:
            await until(lambda: done or running.done())
            assert proxy.has_cut
            assert done == [1]
            await until(lambda: not worker.tasks)  # else the end of the job would be cut off
            assert await is_empty(redis_url)
        finally:
            running.cancel()
            await asyncio.gather(running, *worker.tasks.values(), return_exceptions=True)


async def is_empty(redis_url: str) -> bool:
    async with Redis.from_url(redis_url) as redis:
        return not await redis.exists("kraken:jobs")


@pytest.mark.parametrize(("command", "is_executed"), [cut for cut in CUTS if cut[0] != b"ZSCORE"])
async def test_a_worker_adds_its_job_all_the_same(proxy: Scissors, command: bytes, is_executed: bool) -> None:
    async with PatientRedis.at(proxy.url) as redis:
        proxy.command, proxy.is_executed = command, is_executed
        await JobQueue(redis).refresh()

        assert proxy.has_cut
        assert await redis.zrange(redis.default_queue_name, 0, -1) == [b"refresh"]


@pytest.mark.parametrize(("command", "is_executed"), [cut for cut in CUTS if cut[0] != b"ZSCORE"])
async def test_others_are_told_that_their_job_may_be_missing(
    proxy: Scissors, command: bytes, is_executed: bool
) -> None:
    # If the transaction was cut, they took the job for one that was in the queue already.
    async with await connect_queue(proxy.url) as queue:
        proxy.command, proxy.is_executed = command, is_executed
        with pytest.raises(RedisError):
            await JobQueue(queue).refresh()

        assert await JobQueue(queue).refresh() is not is_executed
