"""When `up` reports a service in trouble."""

from typing import Any

import pytest

from kraken_history.cli.servers import Endpoints
from kraken_history.cli.up import Watch
from kraken_history.runtime.signs import Signs
from kraken_history.settings import Settings


class Chain:
    """Services with these troubles."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.endpoints = Endpoints("postgresql://127.0.0.1:1/x", "redis://127.0.0.1:1/0")

    async def look(self, _: object) -> tuple[dict[str, str], Signs]:
        return self.now, Signs({})


@pytest.fixture
def chain() -> Chain:
    return Chain()


def watching(chain: Chain) -> Watch:
    fake: Any = chain
    return Watch(fake, Settings())


async def lines(watch: Watch, now_s: float) -> list[str]:
    redis: Any = None
    return await watch.look(redis, now_s=now_s)


@pytest.mark.parametrize(
    "why", ["it is starting", "start: connecting to Kraken", "start: the socket to Kraken is open, and …"]
)
async def test_a_slow_start_is_no_failure(chain: Chain, why: str) -> None:
    """On a slow machine, three of four starts once said that Kraken had no session."""
    watch = watching(chain)
    chain.now = {"producer": why}

    assert [await lines(watch, now_s) for now_s in (0.0, 6.0, 29.0)] == [[], [], []]
    assert await lines(watch, 31.0) == [f"producer is unhealthy: {why}"]


async def test_a_failed_session_is_reported_soon(chain: Chain) -> None:
    watch = watching(chain)
    chain.now = {"producer": "kraken: Cannot connect to host"}

    assert await lines(watch, 0.0) == []
    (line,) = await lines(watch, 5.0)
    assert line.startswith("the producer has no session with Kraken at ")


async def test_another_reason_of_the_same_service_is_reported_too(chain: Chain) -> None:
    """After a start of half a minute, that Kraken could not be reached was never said."""
    watch = watching(chain)
    told = []
    for now_s, why in enumerate(
        ["it is starting"] * 32 + ["kraken: refused", "start: connecting to Kraken", "kraken: timed out"] * 20
    ):
        chain.now = {"producer": why}
        told += await lines(watch, float(now_s))

    slow, kraken = told
    assert slow == "producer is unhealthy: it is starting"
    assert kraken.startswith("the producer has no session with Kraken at ")
    assert "(refused)" in kraken


async def test_a_service_that_dies_again_and_again_is_reported_once(chain: Chain) -> None:
    watch = watching(chain)
    told = []
    for now_s in range(100):
        chain.now = {"worker": "it is starting" if now_s % 2 else "it is down and will be restarted: KeyError"}
        told += await lines(watch, float(now_s))

    assert told == ["worker is unhealthy: it is down and will be restarted: KeyError"]
    chain.now = {}
    assert [line[:6] for line in await lines(watch, 100.0)] == ["ready:"]
    chain.now = {"worker": "it is down and will be restarted: KeyError"}
    assert [len(await lines(watch, now_s)) for now_s in (101.0, 106.0, 111.0)] == [0, 1, 0]
    chain.now = {}
    assert await lines(watch, 112.0) == ["worker is healthy again"]
