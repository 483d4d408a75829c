"""When `up` reports a service in trouble."""

from typing import Any

import pytest

from kraken_history.cli.up import Watch
from kraken_history.runtime.signs import Signs
from kraken_history.settings import Settings


class Chain:
    """Services with these troubles."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}

    async def troubles(self, _: object) -> dict[str, str]:
        return self.now


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    async def no_signs(_: object) -> Signs:
        return Signs({})

    monkeypatch.setattr("kraken_history.runtime.liveness.signs_of_life", no_signs)
    return Chain()


async def lines(watch: Watch, now_s: float) -> list[str]:
    redis: Any = None
    return await watch.look(redis, now_s=now_s)


@pytest.mark.parametrize(
    "why", ["it is starting", "start: connecting to Kraken", "start: the socket to Kraken is open, and …"]
)
async def test_a_slow_start_is_no_failure(chain: Chain, why: str) -> None:
    """On a slow machine, three of four starts once said that Kraken had no session."""
    watch = Watch(chain, Settings())  # type: ignore[arg-type]
    chain.now = {"producer": why}

    assert [await lines(watch, now_s) for now_s in (0.0, 6.0, 29.0)] == [[], [], []]
    assert await lines(watch, 31.0) == [f"producer is unhealthy: {why}"]


async def test_a_failed_session_is_reported_soon(chain: Chain) -> None:
    watch = Watch(chain, Settings())  # type: ignore[arg-type]
    chain.now = {"producer": "kraken: Cannot connect to host"}

    assert await lines(watch, 0.0) == []
    (line,) = await lines(watch, 5.0)
    assert line.startswith("the producer has no session with Kraken at ")
