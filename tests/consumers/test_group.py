"""Reading, acknowledging, reclaiming and trimming: on a Redis in this process, and on a real one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from consumers.group import GroupReader, RawEntry, trim

ONE, TWO = "kraken:trades:{0}", "kraken:candles:{0}"


@pytest.fixture(params=["fake", "real"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    if request.param == "fake":
        async with FakeAsyncRedis() as redis:
            yield redis
    else:
        async with Redis.from_url(request.getfixturevalue("redis_url")) as redis:
            yield redis


def reader(
    redis: Any, consumer: str = "a", *, group: str = "store", streams: Sequence[str] = (ONE, TWO)
) -> GroupReader:
    return GroupReader(redis, group=group, consumer=consumer, streams=streams)


async def add(redis: Redis, *numbers: int, stream: str = ONE) -> None:
    """Entries whose ids and contents are these numbers."""
    for number in numbers:
        await redis.xadd(stream, {"n": number}, id=f"{number}-0")


def numbers(entries: Sequence[RawEntry]) -> list[int]:
    return [int(entry.fields[b"n"]) for entry in entries]


def ids(entries: Sequence[RawEntry]) -> list[tuple[str, bytes]]:
    return [(entry.stream, entry.id) for entry in entries]


async def read_all(of: GroupReader) -> list[RawEntry]:
    """Own pending entries to their end, and one read of new ones."""
    found: list[RawEntry] = []
    while of._own_pending:
        found += await of.read(count=100, block_ms=1)
    return found + await of.read(count=100, block_ms=1)


async def length(redis: Redis, stream: str = ONE) -> int:
    return int(await redis.xlen(stream))


class TestReading:
    async def test_what_was_published_before_the_group_was_made_is_read(self, redis: Redis) -> None:
        await add(redis, 1, 2)
        await add(redis, 3, stream=TWO)
        a = reader(redis)
        await a.ensure_groups()

        assert sorted(numbers(await read_all(a))) == [1, 2, 3]

    async def test_each_entry_goes_to_one_consumer_of_the_group_and_to_every_group(self, redis: Redis) -> None:
        a, b, other = reader(redis, "a"), reader(redis, "b"), reader(redis, "c", group="research")
        for each in (a, b, other):
            await each.ensure_groups()
        await add(redis, 1, 2)

        assert numbers(await read_all(a)) == [1, 2]
        assert await read_all(b) == []
        assert numbers(await read_all(other)) == [1, 2]

    async def test_making_the_groups_again_changes_nothing(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        await add(redis, 1)
        await a.acknowledge(ids(await read_all(a)))
        await a.ensure_groups()

        assert await read_all(a) == []

    async def test_any_other_objection_to_the_group_is_an_error(self, redis: Redis) -> None:
        await redis.set(ONE, "not a stream")

        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await reader(redis).ensure_groups()

    async def test_after_a_restart_own_pending_entries_come_before_new_ones(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        await add(redis, 1, 2, 3)
        await a.acknowledge(ids(await read_all(a))[:1])
        await add(redis, 4)

        assert numbers(await read_all(reader(redis, "a"))) == [2, 3, 4]
        assert await read_all(reader(redis, "b")) == []

    async def test_own_pending_entries_are_read_page_by_page_of_each_stream(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        await add(redis, *range(1, 6))
        await add(redis, 10, stream=TWO)
        await read_all(a)
        again = reader(redis, "a")
        pages = [numbers(await again.read(count=2, block_ms=1)) for _ in range(5)]

        assert sorted(pages[0]) == [1, 2, 10]
        assert pages[1:] == [[3, 4], [5], [], []]

    async def test_a_lost_connection_makes_it_begin_with_its_pending_entries_again(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        await add(redis, 1, 2)
        await read_all(a)
        a.read_own_pending_again()

        assert numbers(await read_all(a)) == [1, 2]

    async def test_pending_entries_that_were_deleted_come_without_fields(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        await add(redis, 1, 2)
        await read_all(a)
        await redis.xdel(ONE, "1-0")
        again = await read_all(reader(redis, "a"))

        assert [(entry.id, bool(entry.fields)) for entry in again] == [(b"1-0", False), (b"2-0", True)]

    async def test_reading_nothing_returns_after_its_time(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        async with asyncio.timeout(5):
            assert await read_all(a) == []
            assert await a.read(count=10, block_ms=0) == []  # to Redis, 0 would mean for ever

    async def test_acknowledging_nothing_is_no_error(self, redis: Redis) -> None:
        await reader(redis).acknowledge([])


class TestReclaiming:
    async def test_what_a_consumer_left_is_taken_over_from_all_streams(self, redis: Redis) -> None:
        a, b = reader(redis, "a"), reader(redis, "b")
        await a.ensure_groups()
        await add(redis, 1, 2)
        await add(redis, 3, stream=TWO)
        await read_all(a)

        assert numbers(await b.reclaim(idle_s=0, count=100)) == [1, 2, 3]
        assert numbers(await read_all(reader(redis, "b"))) == [1, 2, 3]
        assert await read_all(reader(redis, "a")) == []

    async def test_what_is_not_idle_for_long_enough_is_left(self, redis: Redis) -> None:
        a, b = reader(redis, "a"), reader(redis, "b")
        await a.ensure_groups()
        await add(redis, 1)
        await read_all(a)

        assert await b.reclaim(idle_s=60, count=100) == []

    async def test_it_goes_on_until_the_cursor_comes_back_to_the_beginning(self, redis: Redis) -> None:
        """XAUTOCLAIM scans ten times its count; what is idle may lie behind what is not."""
        a = reader(redis, "a", streams=[ONE])
        await a.ensure_groups()
        await add(redis, *range(1, 51))
        await read_all(a)
        asked: list[object] = []

        class Watched:
            async def xautoclaim(self, *args: Any, **kwargs: Any) -> Any:
                asked.append(kwargs["start_id"])
                kwargs["count"] = 3
                return await redis.xautoclaim(*args, **kwargs)

        entries = await reader(Watched(), "b", streams=[ONE]).reclaim(idle_s=0, count=1000)

        assert numbers(entries) == list(range(1, 51))
        assert asked[0] == b"0-0"
        assert len(asked) >= 17

    async def test_no_more_than_about_the_count_is_taken_at_once(self, redis: Redis) -> None:
        a, b = reader(redis, "a", streams=[ONE]), reader(redis, "b", streams=[ONE])
        await a.ensure_groups()
        await add(redis, *range(1, 51))
        await read_all(a)

        assert len(await b.reclaim(idle_s=0, count=20)) == 20

    async def test_entries_that_were_deleted_are_not_taken_over(self, redis: Redis) -> None:
        a, b = reader(redis, "a"), reader(redis, "b")
        await a.ensure_groups()
        await add(redis, 1, 2)
        await read_all(a)
        await redis.xdel(ONE, "1-0")

        assert [entry.id for entry in await b.reclaim(idle_s=0, count=100) if entry.fields] == [b"2-0"]


class TestTrimming:
    async def test_what_the_only_group_has_acknowledged_is_deleted(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        await add(redis, 1, 2, 3)
        await add(redis, 4, stream=TWO)
        await a.acknowledge(ids(await read_all(a)))
        await add(redis, 5)

        assert await a.trim() == 4
        assert numbers(await read_all(a)) == [5]

    async def test_nothing_from_the_oldest_pending_entry_on_is_deleted(self, redis: Redis) -> None:
        a = reader(redis)
        await a.ensure_groups()
        await add(redis, 1, 2, 3, 4)
        entries = ids(await read_all(a))
        await a.acknowledge([entries[0], entries[2], entries[3]])

        assert await trim(redis, ONE) == 1
        assert numbers(await read_all(reader(redis, "a"))) == [2]

    async def test_the_slowest_group_decides(self, redis: Redis) -> None:
        fast, slow, asleep = (reader(redis, group=name, streams=[ONE]) for name in ("fast", "slow", "asleep"))
        for each in (fast, slow, asleep):
            await each.ensure_groups()
        await add(redis, 1, 2, 3, 4)
        await fast.acknowledge(ids(await read_all(fast)))
        await slow.acknowledge(ids(await read_all(slow))[:2])
        assert await trim(redis, ONE) == 0  # one group has read nothing yet
        await asleep.acknowledge(ids(await read_all(asleep)))
        assert await trim(redis, ONE) == 2
        assert await length(redis) == 2
        await slow.acknowledge([(ONE, b"3-0"), (ONE, b"4-0")])
        assert await trim(redis, ONE) == 2

    async def test_a_stream_without_groups_is_left_alone(self, redis: Redis) -> None:
        await add(redis, 1)

        assert await trim(redis, ONE) == 0
        assert await length(redis) == 1

    async def test_an_acknowledgement_in_the_middle_of_trimming_is_no_error(self, redis: Redis) -> None:
        """The consumer's writer acknowledged between the two questions, and the trim fell over no oldest entry."""
        a = reader(redis, streams=[ONE])
        await a.ensure_groups()
        await add(redis, 1, 2)
        entries = ids(await read_all(a))

        class Interrupted:
            async def xpending(self, *args: Any, **kwargs: Any) -> Any:
                await a.acknowledge(entries)
                await add(redis, 3)
                return await redis.xpending(*args, **kwargs)

            async def xinfo_groups(self, *args: Any, **kwargs: Any) -> Any:
                return await redis.xinfo_groups(*args, **kwargs)

            async def xtrim(self, *args: Any, **kwargs: Any) -> Any:
                return await redis.xtrim(*args, **kwargs)

        interrupted: Any = Interrupted()
        assert await trim(interrupted, ONE) == 2
        assert numbers(await read_all(a)) == [3]
