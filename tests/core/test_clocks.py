"""The clocks of other hosts: told by their answers, and compared with this machine's."""

from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from kraken_history.clock import hint_of_clocks
from kraken_history.kraken.client import KrakenRest
from kraken_history.runtime.clocks import OtherClock
from tests.support.kraken import NoLimit

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Machine:
    """A machine with a wall clock that can be set, and a monotonic one."""

    def __init__(self) -> None:
        self.wall, self.monotonic_s = NOON, 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.monotonic_s += seconds

    def clock(self) -> OtherClock:
        return OtherClock(local=lambda: self.wall, monotonic=lambda: self.monotonic_s)


def test_before_an_answer_it_is_the_clock_of_this_machine() -> None:
    clock = Machine().clock()

    assert (clock.now(), clock.ahead_s) == (NOON, None)


def test_a_small_difference_is_the_blur_of_the_answer() -> None:
    clock = Machine().clock()
    clock.note(NOON - timedelta(seconds=1.9))

    assert (clock.now(), clock.ahead_s) == (NOON, 1.9)


def test_a_clock_that_is_off_is_not_believed_and_the_other_goes_on() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.note(NOON - HOUR, asked_at_s=machine.monotonic_s - 2)  # made half-way: a second ago
    machine.pass_by(10)

    assert clock.now() == NOON - HOUR + timedelta(seconds=11)
    assert clock.ahead_s == 3_599


def test_it_does_not_matter_when_the_clock_of_this_machine_is_set() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.note(NOON)
    machine.wall -= HOUR
    machine.pass_by(1)

    assert (clock.now(), clock.ahead_s) == (NOON + timedelta(seconds=1), -3_600)


@pytest.mark.parametrize(
    ("ahead_s", "hint"),
    [
        ({}, ""),
        ({"redis": 2.0, "kraken": -2.0}, ""),
        ({"redis": 0.0, "kraken": 3_600.0}, "the machine's clock is 60 min ahead of Kraken's"),
        ({"redis": -90.0}, "the machine's clock is 90 s behind Redis': synchronise both"),
        ({"redis": -90.0, "kraken": 0.1}, "the clock of Redis' machine is 90 s ahead of Kraken's: synchronise it"),
    ],
)
def test_the_hint_names_the_clock_that_is_off(ahead_s: dict[str, float], hint: str) -> None:
    assert hint_of_clocks(ahead_s).startswith(hint)
    assert bool(hint_of_clocks(ahead_s)) == bool(hint)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Date": "Mon, 05 Jan 2026 11:00:00 GMT"}, NOON - HOUR),
        ({"Date": "Mon, 05 Jan 2026 11:00:00 GMT", "Age": "60"}, NOON - HOUR + timedelta(minutes=1)),
        ({"Date": "whenever"}, None),
    ],
)
async def test_krakens_clock_is_the_date_of_its_answers(headers: dict[str, str], told: datetime | None) -> None:
    async def answer(_: web.Request) -> web.Response:
        body = b'{"error":[],"result":{"unixtime":1767610800,"rfc1123":""}}'
        return web.Response(body=body, content_type="application/json", headers=headers)

    app = web.Application()
    app.router.add_get("/0/public/Time", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        async with KrakenRest(f"http://127.0.0.1:{port}", NoLimit()) as rest:
            await rest.fetch_time()
            now, ahead_s = rest.clock.now(), rest.clock.ahead_s
    finally:
        await runner.cleanup()

    if told is None:
        assert ahead_s is None
    else:
        assert abs(now - told) < timedelta(seconds=5)
