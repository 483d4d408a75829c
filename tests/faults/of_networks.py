"""Networks that cut, delay, throttle and swallow, between every service and one server."""

import asyncio
from typing import TypedDict

from tests.faults.scenario import BOTH, scenario
from tests.faults.system import Place, System

_PLACES: tuple[tuple[Place, str], ...] = (
    ("database", "the database"),
    ("redis", "Redis"),
    ("ws", "Kraken's WebSocket"),
    ("rest", "Kraken's REST"),
)


async def _hole_if_rest(system: System, place: Place) -> None:
    """REST is only used while trades are missing."""
    if place == "rest":
        await system.make_hole()


class _Bound(TypedDict, total=False):
    """A bound of its own, as keywords of :func:`scenario`."""

    bound_s: float
    why: str


_PAUSES: _Bound = {"bound_s": 25.0, "why": "Kraken asks for pauses of 5 s and longer after five attempts to connect"}
_CUT: dict[Place, _Bound] = {
    "ws": _PAUSES,
    "rest": {"bound_s": 20.0, "why": "after a call without an answer, workers pause for 5 s and longer"},
}
_BLACK_HOLE: dict[Place, _Bound] = {"ws": _PAUSES}
_SILENT: dict[Place, _Bound] = {
    "rest": {"bound_s": 45.0, "why": "a call of REST is given up after 30 s without an answer"},
    "database": {"bound_s": 20.0, "why": "a service gives a connection up within 15 s after it was used again"},
}


def _cut(place: Place, called: str) -> None:
    @scenario(
        f"network-{place}-cut",
        f"The connections of all services to {called} are reset and refused for 5–10 s.",
        **_CUT.get(place, {}),
    )
    async def _(system: System) -> None:
        await _hole_if_rest(system, place)
        for line in system.lines_to(place):
            await line.cut()
        await system.pause(5, 10)
        await _restore(system, place)


def _flaps(place: Place, called: str) -> None:
    @scenario(f"network-{place}-flaps", f"The connections of all services to {called} are reset ten times within 10 s.")
    async def _(system: System) -> None:
        await _hole_if_rest(system, place)
        for _ in range(10):
            await system.pause(0.1, 1.5)
            for line in system.lines_to(place):
                await line.reset()


def _slow(place: Place, called: str) -> None:
    @scenario(f"network-{place}-slow", f"All traffic with {called} is delayed by 0.3 s and throttled for 15 s.")
    async def _(system: System) -> None:
        for line in system.lines_to(place):
            line.latency_s, line.bytes_per_s = 0.3, 100_000.0
        await _hole_if_rest(system, place)
        await asyncio.sleep(15)
        await _restore(system, place)


def _black_hole(place: Place, called: str) -> None:
    @scenario(
        f"network-{place}-black-hole",
        f"All traffic with {called} is swallowed for 20 s; nothing is closed.",
        **_BLACK_HOLE.get(place, {}),
    )
    async def _(system: System) -> None:
        await _hole_if_rest(system, place)
        for line in system.lines_to(place):
            line.hang()
        await asyncio.sleep(20)
        await _restore(system, place)


def _silent(place: Place, called: str) -> None:
    @scenario(
        f"network-{place}-silent",
        f"The open connections to {called} go silent for ever, and are not closed. New ones work.",
        flavours=BOTH if place == "database" else ("postgresql",),
        **_SILENT.get(place, {}),
    )
    async def _(system: System) -> None:
        await _hole_if_rest(system, place)
        for line in system.lines_to(place):
            line.hang_what_is_open()
        if place != "rest":
            await system.until_stored(500, within_s=30)


def _half_closed(place: Place, called: str) -> None:
    @scenario(f"network-{place}-half-closed", f"The open connections to {called} are closed in one direction only.")
    async def _(system: System) -> None:
        await _hole_if_rest(system, place)
        for line in system.lines_to(place):
            line.half_close()
        if place != "rest":
            await system.until_stored(500, within_s=60)


async def _restore(system: System, place: Place) -> None:
    for line in system.lines_to(place):
        await line.restore()


for _place, _called in _PLACES:
    for _make in (_cut, _flaps, _slow, _black_hole, _silent, _half_closed):
        _make(_place, _called)


@scenario("network-kraken-away-a-minute", "Neither the WebSocket nor REST can be reached for a minute.",
          bound_s=70.0, why="the producer pauses for up to 60 s between attempts to connect")  # fmt: skip
async def _(system: System) -> None:
    lines = system.lines_to("ws", "rest")
    for line in lines:
        await line.cut()
    await asyncio.sleep(60)
    for line in lines:
        await line.restore()


@scenario("kraken-disconnects", "Kraken closes every WebSocket five times.")
async def _(system: System) -> None:
    for _ in range(5):
        await system.pause(0.2, 3)
        await system.kraken.disconnect()


@scenario("network-of-the-consumer-alone", "Only the consumer loses Redis and the database, one after the other.")
async def _(system: System) -> None:
    for place in ("redis", "database"):
        line = system.line("consumer", place)
        await line.cut()
        await system.pause(2, 6)
        await line.restore()
        await system.until_stored(200)
