"""Jobs are put into the queue once, and a queue that is away disturbs nobody."""

import pytest
from arq.connections import ArqRedis
from arq.worker import JobExecutionFailed

from kraken_history.fetching.queue import JobQueue, decode_job, encode_job
from kraken_history.ledger import IdRanges
from tests.support.proxy import Proxy
from tests.support.queue import connect_queue


async def length(arq: ArqRedis) -> int:
    return len(await arq.queued_jobs())


async def test_the_same_hole_is_in_the_queue_once(arq: ArqRedis) -> None:
    jobs = JobQueue(arq)

    assert await jobs.heal("BTC/USDT", (5, 9))
    assert not await jobs.heal("BTC/USDT", (5, 9))
    assert not await JobQueue(arq).heal("BTC/USDT", (5, 9), delay_s=0)
    assert await length(arq) == 1


async def test_another_range_symbol_or_beginning_is_another_job(arq: ArqRedis) -> None:
    jobs = JobQueue(arq)

    assert await jobs.heal("BTC/USDT", (5, 9))
    assert await jobs.heal("BTC/USDT", (5, 10))
    assert await jobs.heal("ETH/USDT", (5, 9))
    assert await jobs.heal("BTC/USDT", (5, 9), since=1_762_795_433_971_744_500)
    assert await length(arq) == 4


async def test_a_hole_that_was_asked_for_lately_is_not_asked_for_again(arq: ArqRedis) -> None:
    jobs = JobQueue(arq)
    await jobs.heal_new_holes({"BTC/USDT": IdRanges([(5, 9), (5_012, 5_013)]), "ETH/USDT": IdRanges()})
    assert await length(arq) == 2
    await arq.flushall()
    await jobs.heal_new_holes({"BTC/USDT": IdRanges([(5, 9), (9_020, 9_021)])})

    assert await length(arq) == 1


async def test_a_queue_that_is_away_disturbs_nobody_and_is_asked_again_later(arq: ArqRedis, redis_url: str) -> None:
    holes = {"BTC/USDT": IdRanges([(5, 9), (5_012, 5_013)])}
    async with Proxy(redis_url) as proxy, await connect_queue(proxy.url) as cut_off:
        jobs = JobQueue(cut_off)
        await proxy.cut()
        await jobs.heal_new_holes(holes)
        assert await length(arq) == 0
        await proxy.restore()
        await jobs.heal_new_holes(holes)

    assert await length(arq) == 2


def test_what_a_job_has_failed_with_is_kept_in_words() -> None:
    # arq has a result for a job that it gives up, also where none is to be kept, and told with a traceback that it
    # could not be encoded.
    failed = {"s": False, "r": JobExecutionFailed("max 3 retries exceeded")}

    assert decode_job(encode_job(failed)) == {"s": False, "r": "JobExecutionFailed: max 3 retries exceeded"}


def test_what_no_job_can_hold_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="expected a value that MessagePack can encode, got a object"):
        encode_job({"a": [object()]})
