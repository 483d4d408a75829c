"""One rate limit for all processes, on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from kraken_history.errors import ServiceUnavailable
from kraken_history.kraken.limiter import JITTER, RateLimiter
from kraken_history.kraken.pacing import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Pacing
from kraken_history.kraken.rest import Refusal
from tests.support.slots import TOTAL, assert_spaced, noted_slots

SPACING_S, TOTAL_SPACING_S = 0.12, 0.04


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as connection:
        yield connection


@pytest.fixture
async def limiters(redis_url: str) -> AsyncIterator[list[RateLimiter]]:
    """As in three processes: each with a connection of its own."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Redis.from_url(redis_url)) for _ in range(3)]
        yield [RateLimiter(c, Pacing(SPACING_S, TOTAL_SPACING_S)) for c in connections]


async def test_no_two_calls_of_any_process_are_too_close(redis_url: str, limiters: list[RateLimiter]) -> None:
    async with noted_slots(redis_url) as slots, asyncio.TaskGroup() as tasks:
        for limiter in limiters:
            for pair in ("XBTUSDT", "XBTUSDT", "ETHUSDT", "ETHUSDT"):
                tasks.create_task(limiter.wait_for_turn(pair))

    assert {name: len(given) for name, given in slots.items()} == {"XBTUSDT": 6, "ETHUSDT": 6, TOTAL: 12}
    assert_spaced(slots[TOTAL], TOTAL_SPACING_S)
    for pair in ("XBTUSDT", "ETHUSDT"):
        assert_spaced(slots[pair], SPACING_S)


async def test_the_first_call_does_not_wait(redis: Redis) -> None:
    limiter = RateLimiter(redis, Pacing(60.0, 60.0))

    async with asyncio.timeout(10):
        await limiter.wait_for_turn("XBTUSDT")


async def test_a_pair_that_waits_does_not_hold_up_another(limiters: list[RateLimiter]) -> None:
    await limiters[0].wait_for_turn("XBTUSDT")
    await limiters[0].note_refusal("XBTUSDT")

    async with asyncio.timeout(2):
        await limiters[1].wait_for_turn("ETHUSDT")


async def test_each_refusal_in_a_row_doubles_the_pause_for_everybody(limiters: list[RateLimiter]) -> None:
    pauses = [await limiter.note_refusal("XBTUSDT") for limiter in (*limiters, *limiters)]

    first, longest = FIRST_BACKOFF_S, LONGEST_BACKOFF_S
    for n, pause in enumerate(pauses):
        assert_about(pause, min(first * 2**n, longest))
    assert_about(pauses[-1], longest)


def assert_about(pause_s: float, expected_s: float) -> None:
    """As long as expected, or up to a quarter longer."""
    assert expected_s <= pause_s <= expected_s * (1 + JITTER)


async def test_a_refusal_keeps_everybody_from_calling_for_that_pair(limiters: list[RateLimiter]) -> None:
    await limiters[0].note_refusal("XBTUSDT")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SPACING_S * 3):
            await limiters[1].wait_for_turn("XBTUSDT")


async def test_a_success_makes_the_next_pause_short_again(limiters: list[RateLimiter]) -> None:
    for _ in range(3):
        await limiters[0].note_refusal("XBTUSDT")
    await limiters[1].note_success("XBTUSDT")

    assert_about(await limiters[2].note_refusal("XBTUSDT"), FIRST_BACKOFF_S)


async def test_a_success_shortens_the_pause_of_a_pair_that_was_asked_for_too_often(limiters: list[RateLimiter]) -> None:
    for _ in range(3):
        await limiters[0].note_refusal("XBTUSDT", Refusal(too_often=True))
    await limiters[1].note_success("XBTUSDT")

    assert_about(await limiters[2].note_refusal("XBTUSDT"), FIRST_BACKOFF_S)


async def test_refusals_of_one_pair_do_not_lengthen_the_pause_of_another(limiters: list[RateLimiter]) -> None:
    await limiters[0].note_refusal("XBTUSDT")
    await limiters[0].note_refusal("XBTUSDT")

    assert_about(await limiters[0].note_refusal("ETHUSDT"), FIRST_BACKOFF_S)


async def test_nothing_that_the_limiter_keeps_lasts_for_ever(redis: Redis, limiters: list[RateLimiter]) -> None:
    await limiters[0].wait_for_turn("XBTUSDT")
    await limiters[0].note_refusal("ETHUSDT")

    keys = [key async for key in redis.scan_iter("*")]
    assert len(keys) == 4
    for key in keys:
        assert 0 < await redis.pttl(key) <= 300_000


async def test_without_redis_nobody_may_call_and_that_may_pass() -> None:
    # An error of the Redis client ended running backfills for good: to callers it was no outage but a bug.
    async with Redis.from_url("redis://127.0.0.1:1/0") as nobody:
        limiter = RateLimiter(nobody)
        for call in (limiter.wait_for_turn("X"), limiter.note_refusal("X"), limiter.note_success("X")):
            with pytest.raises(ServiceUnavailable, match="rate limit"):
                await call
