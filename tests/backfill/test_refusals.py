"""What a refusal means for the calls to come, in the answer, the client and the limiters."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from kraken_history.errors import KrakenBusy, KrakenPaused, MalformedMessage
from kraken_history.kraken import limiter as limits
from kraken_history.kraken.client import KrakenRest, Limiter
from kraken_history.kraken.limiter import JITTER, LocalRateLimiter, RateLimiter
from kraken_history.kraken.pacing import Pacing
from kraken_history.kraken.rest import LOCKOUT_S, Refusal, decode_result, decode_system_status, decode_time, refusal_of
from tests.support.kraken import BTC, CountedSimulator, NoLimit, scripted_kraken

NOW = datetime(2025, 11, 10, 17, 23, 53, tzinfo=UTC)
TOO_OFTEN = Refusal(too_often=True)


# Answers


@pytest.mark.parametrize(
    ("error", "status", "retry_after", "expected"),
    [
        ("EGeneral:Too many requests", 200, None, Refusal(0, True)),
        ("EAPI:Rate limit exceeded", 200, None, Refusal(0, True)),
        (f"EService:Throttled: {NOW.timestamp() + 42:.0f}", 200, None, Refusal(42, True)),
        ("EService:Throttled: 1", 200, None, Refusal(0, True)),
        ("EService:Throttled: soon", 200, None, Refusal(0, True)),
        ("EService:Throttled", 200, "7", Refusal(7, True)),
        ("EService:Throttled: 99999999999", 200, None, Refusal(3600, True)),
        ("EGeneral:Temporary lockout", 200, None, Refusal(LOCKOUT_S, True, True)),
        ("EService:Unavailable", 200, None, Refusal()),
        ("EGeneral:Internal error", 200, None, Refusal()),
        ("HTTP 520 without an answer in JSON", 520, None, Refusal()),
        ("HTTP 503", 503, "120", Refusal(120)),
        ("HTTP 503", 503, "Mon, 10 Nov 2025 17:24:53 GMT", Refusal(60)),
        ("HTTP 503", 503, "Mon, 10 Nov 2025 17:00:00 GMT", Refusal()),
        ("HTTP 503", 503, "in a while", Refusal()),
        ("HTTP 429", 429, "9999999999999", Refusal(3600, True, True)),
    ],
)
def test_an_answer_says_how_long_to_be_silent(
    error: str, status: int, retry_after: str | None, expected: Refusal
) -> None:
    assert refusal_of([error], status=status, retry_after=retry_after, now=NOW) == expected


async def test_the_client_hands_on_what_the_answer_says() -> None:
    limiter = NoLimit()
    async with scripted_kraken('{"error":["EGeneral:Too many requests"]}') as kraken:
        kraken.headers["Retry-After"] = "33"
        async with KrakenRest(kraken.url, limiter, attempts=2) as rest:
            with pytest.raises(KrakenBusy):
                await rest.fetch_trades_page(BTC)

    assert limiter.refusals == [Refusal(33, True)] * 2


async def test_a_kraken_that_is_not_there_says_nothing() -> None:
    limiter = NoLimit()
    async with KrakenRest("http://127.0.0.1:9", limiter, attempts=1) as rest:
        with pytest.raises(Exception, match="no answer from Kraken"):
            await rest.fetch_time()

    assert limiter.refusals == [Refusal()]


# SystemStatus and Time


async def test_the_system_status_and_the_time_are_those_of_kraken() -> None:
    async with CountedSimulator(("BTC/USDT",), history=1) as kraken, KrakenRest(kraken.rest_url, NoLimit()) as rest:
        status = await rest.fetch_system_status()
        now = await rest.fetch_time()

    assert status.status == "online"
    assert abs((now - datetime.now(UTC)).total_seconds()) < 5
    assert abs((status.timestamp - now).total_seconds()) < 5


def test_the_recorded_answers_are_read(recordings: Path) -> None:
    status = decode_system_status(decode_result(200, (recordings / "rest/system_status.json").read_bytes()))
    now = decode_time(decode_result(200, (recordings / "rest/server_time.json").read_bytes()))

    assert status.status in ("online", "maintenance", "cancel_only", "post_only")
    assert status.timestamp.tzinfo is not None
    assert now.tzinfo is UTC


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b'{"status":"online","timestamp":"soon"}', b'{"unixtime":"x"}',
             b'{"status":"online","timestamp":"2025-11-10T00:00:00"}', b'{"unixtime":1e99}',
             b'{"unixtime":999999999999999}', b"\xff"],
)  # fmt: skip
def test_what_is_neither_is_malformed(body: bytes) -> None:
    for decode in (decode_system_status, decode_time):
        with pytest.raises(MalformedMessage) as refusal:
            decode(msgspec.Raw(body))
        assert refusal.value.payload == body


# Limiters


class Clock:
    """A clock that the test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as connection:
        yield connection


PACING = Pacing(spacing_s=0.02, total_spacing_s=0.001, slowest_spacing_s=0.06, first_backoff_s=0.01)


@pytest.fixture(params=["redis", "local"])
async def limiter(request: pytest.FixtureRequest, redis: Redis) -> Limiter:
    """Either kind, fast."""
    return RateLimiter(redis, PACING) if request.param == "redis" else LocalRateLimiter(PACING)


async def spacing_of(limiter: Limiter, pair: str = "XBTUSDT") -> float:
    """Seconds that two calls take at least: a busy machine makes them longer, and nothing makes them shorter."""
    took: list[float] = []
    for _ in range(5):
        await asyncio.sleep(PACING.slowest_spacing_s)  # after which the first of the two need not wait
        begin = asyncio.get_running_loop().time()
        await limiter.wait_for_turn(pair)
        await limiter.wait_for_turn(pair)
        took.append(asyncio.get_running_loop().time() - begin)
    return min(took)


async def test_refusals_space_the_calls_of_a_pair_wider_up_to_a_bound(limiter: Limiter) -> None:
    for _ in range(6):
        await limiter.note_refusal("XBTUSDT", TOO_OFTEN)
    await limiter.note_success("XBTUSDT")

    assert 0.058 < await spacing_of(limiter) < 0.2
    assert await spacing_of(limiter, "ETHUSDT") < 0.055


async def test_a_kraken_in_trouble_is_not_asked_wider(limiter: Limiter) -> None:
    for _ in range(6):
        await limiter.note_refusal("XBTUSDT", Refusal())
    await limiter.note_success("XBTUSDT")

    assert await spacing_of(limiter) < 0.055


async def test_answers_bring_the_spacing_back(limiter: Limiter) -> None:
    for _ in range(6):
        await limiter.note_refusal("XBTUSDT", TOO_OFTEN)
    for _ in range(limits.NARROWED_AFTER * 12):
        await limiter.note_success("XBTUSDT")

    assert await spacing_of(limiter) < 0.055


async def test_a_refusal_begins_the_run_of_answers_anew(limiter: Limiter) -> None:
    for _ in range(12):
        await limiter.note_refusal("XBTUSDT", TOO_OFTEN)
        for _ in range(limits.NARROWED_AFTER - 1):
            await limiter.note_success("XBTUSDT")

    assert await spacing_of(limiter) > 0.058


async def test_a_pause_that_the_answer_wants_is_kept(limiter: Limiter) -> None:
    pause_s = await limiter.note_refusal("XBTUSDT", Refusal(5.0))

    assert 5.0 <= pause_s <= 5.0 * (1 + JITTER)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await limiter.wait_for_turn("XBTUSDT")
    async with asyncio.timeout(1):
        await limiter.wait_for_turn("ETHUSDT")


async def test_a_lockout_is_for_all_pairs_and_is_not_waited_out(limiter: Limiter) -> None:
    """The call says that Kraken is busy, so that a job gives its place to others."""
    await limiter.note_refusal("XBTUSDT", Refusal(LOCKOUT_S, True, True))

    for pair in ("XBTUSDT", "ETHUSDT"):
        with pytest.raises(KrakenPaused, match=r"^Kraken asked for a pause: no calls for .* for another \d+ s$"):
            await limiter.wait_for_turn(pair)


async def test_a_call_without_a_pair_that_is_held_back_says_which_it_was(limiter: Limiter) -> None:
    await limiter.note_refusal("XBTUSDT", Refusal(LOCKOUT_S, True, True))
    async with KrakenRest("http://127.0.0.1:1", limiter) as rest:
        with pytest.raises(KrakenPaused, match="no calls for AssetPairs, SystemStatus and Time for another"):
            await rest.fetch_asset_pairs()


async def test_a_pause_is_never_shortened(limiter: Limiter) -> None:
    await limiter.note_refusal("XBTUSDT", Refusal(200.0))
    await limiter.note_refusal("XBTUSDT", TOO_OFTEN)

    with pytest.raises(KrakenBusy):
        await limiter.wait_for_turn("XBTUSDT")


async def test_without_redis_calls_are_spaced_too() -> None:
    clock = Clock()
    local = LocalRateLimiter(Pacing(spacing_s=10, total_spacing_s=2), clock=clock)

    async def may_go(pair: str) -> bool:
        try:
            async with asyncio.timeout(0.01):
                await local.wait_for_turn(pair)
        except TimeoutError:
            return False
        return True

    assert [await may_go("A"), await may_go("A"), await may_go("B")] == [True, False, False]
    clock.now_s += 2
    assert [await may_go("A"), await may_go("B")] == [False, True]
    clock.now_s += 8
    assert await may_go("A")


async def test_without_redis_each_refusal_in_a_row_doubles_the_pause() -> None:
    local = LocalRateLimiter()
    pauses = [await local.note_refusal("A") for _ in range(5)]
    await local.note_success("A")
    pauses.append(await local.note_refusal("A"))

    for pause_s, expected_s in zip(pauses, (5, 10, 20, 40, 60, 5), strict=True):
        assert expected_s <= pause_s <= expected_s * (1 + JITTER)


async def test_a_limit_of_the_real_one_s_kind_is_found_and_kept_to(redis: Redis) -> None:
    """Kraken takes a call each 0.2 s, and is asked each 0.05: after a few refusals it is asked slowly enough."""
    pacing = Pacing(0.05, 0.001, 0.6, first_backoff_s=0.1)
    simulator = CountedSimulator(("BTC/USDT",), history=100, rest_burst=1, rest_rate=1 / 0.2)
    async with simulator as kraken, KrakenRest(kraken.rest_url, RateLimiter(redis, pacing), attempts=10) as rest:
        for _ in range(10):
            await rest.fetch_trades_page(BTC, 0)

    assert 10 < len(kraken.calls) <= 18
