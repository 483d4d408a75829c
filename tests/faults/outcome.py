"""The check at the end of every scenario: the database equals the truth, and nothing grew beyond its bound."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import asyncpg
from msgspec import Struct
from redis.exceptions import RedisError

from kraken_history.cli.verdict import TruthOfSymbol, Verdict, judge
from kraken_history.errors import HistoryError
from kraken_history.storing.aggregates import RefreshIsRunning, refresh
from kraken_history.storing.longer_intervals import AGGREGATES
from kraken_history.stream import wire
from tests.aggregates.truth import grouped, shown
from tests.faults.line import Watch
from tests.faults.system import SPACING_S, SYMBOLS, Streams, System

ALLOWED_S = 5.0
"""Part of the rule beside pages × spacing."""

_STARTED_WITHIN_S = 60.0  # how long a process takes says more about the machine than about healing
_CALM_S = 3.0  # after the end of trading, what is on its way is stored within this time
_DRAINED_WITHIN_S = 45.0  # trimmed every 5 s; what a lost consumer left pending is taken over after 30 s
_STREAM_MAX = 200_000
_MEMORY_MAX = 400 * 2**20
_Condition = Callable[[], Awaitable[bool]]
_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, HistoryError)


class Outcome(Struct, frozen=True):
    """What came out of one run of one scenario.

    Attributes:
        lost: Trades that are not stored.
        doubled: Rows beyond the first of a trade.
        wrong: Candles of any stored interval that differ from the truth, and symbols with trades that nobody made.
        heal_s: Seconds from the end of the fault until all trades up to then were stored.
        pages: Pages of REST Trades that were requested meanwhile.
        allowed_s: Upper bound for ``heal_s``.
        complaints: Everything else that went wrong.
    """

    lost: int
    doubled: int
    wrong: int
    heal_s: float
    pages: int
    allowed_s: float
    complaints: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """True if the database is the truth."""
        return not (self.lost or self.doubled or self.wrong)

    @property
    def is_in_time(self) -> bool:
        """True if the rule was kept."""
        return self.heal_s <= self.allowed_s


def count_pages(system: System) -> list[Watch]:
    """Count the pages that workers request from now on."""
    return [
        line.count(b"GET /0/public/Trades", "to server")
        for (name, place), line in system.lines.items()
        if place == "rest" and name.startswith("worker")
    ]


async def examine(system: System, pages: list[Watch], *, bound_s: float | None, give_up_s: float) -> Outcome:
    """Wait until everything is healed, and compare it with the truth.

    Args:
        bound_s: Bound of the contract for this scenario, where it is not that of the rule.
        give_up_s: Seconds after which what is missing counts as lost.
    """
    over = time.monotonic()
    if await _within(_STARTED_WITHIN_S, system.have_started):
        over = time.monotonic()
    marks = await system.kraken.truth()
    is_healed = await _within(give_up_s, lambda: _is_stored(system, marks))
    heal_s = time.monotonic() - over
    if not system.stays_stopped:
        await system.kraken.stop()
    calm = time.monotonic()
    verdict = await _settle(system, max(give_up_s - heal_s, 30.0) if is_healed else 5.0)
    if time.monotonic() - calm > _CALM_S:
        heal_s = time.monotonic() - over
    count = sum(watch.seen for watch in pages)
    lost = sum(max(each.missing, 0) for each in verdict.symbols.values())
    doubled = sum(each.duplicates for each in verdict.symbols.values())
    foreign = sum(not each.is_equal and not each.missing and not each.duplicates for each in verdict.symbols.values())
    wrong = foreign + (0 if lost else verdict.candles.mismatched + await _wrong_longer(system))
    await _look_around(system)
    return Outcome(
        lost, doubled, wrong, round(heal_s, 1), count,
        round(ALLOWED_S + count * SPACING_S if bound_s is None else bound_s, 1), tuple(system.complaints),
    )  # fmt: skip


async def _within(seconds: float, condition: _Condition) -> bool:
    give_up = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(0.1)
    return True


async def _is_stored(system: System, marks: dict[str, TruthOfSymbol]) -> bool:
    """True if the ledger has every id up to the marks."""
    try:
        rows = await system.fetch(
            "SELECT symbol, held_ids(symbol) + absent_within(symbol, 0, 9223372036854775807) AS ids"
            " FROM data_sync_status WHERE data_type = 'trades'"
        )
    except _AWAY:
        return False
    ranges = {row["symbol"]: row["ids"] for row in rows}
    return all(
        any(r.lower <= truth.first_id and truth.last_id < r.upper for r in ranges.get(symbol, ()))
        for symbol, truth in marks.items()
        if truth.first_id is not None and truth.last_id is not None
    )


async def _settle(system: System, within_s: float) -> Verdict:
    """The verdict, once it is good or the time is up."""
    truth = await system.kraken.truth()
    candles = {symbol: await system.kraken.candles(symbol) for symbol in SYMBOLS}
    give_up = time.monotonic() + within_s
    while True:
        try:
            connection = await system.connect()
            try:
                verdict = await judge(connection, truth, candles)
            finally:
                await connection.close(timeout=5)
        except _AWAY:
            if time.monotonic() > give_up:
                raise
        else:
            if verdict.ok or time.monotonic() > give_up:
                return verdict
        await asyncio.sleep(0.3)


async def _wrong_longer(system: System) -> int:
    """Candles of the stored longer intervals that are not what their minutes say, after a refresh."""
    wrong = 0
    async with asyncpg.create_pool(system.database.url(system.database_name), min_size=1, max_size=2) as pool:
        for _ in range(50):
            with suppress(RefreshIsRunning):
                await refresh(pool)
                break
            await asyncio.sleep(0.2)
        for aggregate in AGGREGATES:
            is_, should_be = await shown(pool, aggregate), await grouped(pool, aggregate)
            # Of pairs that a scenario added, retention may have dropped the minutes and kept the longer candles.
            ours = {bucket for bucket in is_.keys() | should_be.keys() if bucket[0] in SYMBOLS}
            wrong += sum(is_.get(bucket) != should_be.get(bucket) for bucket in ours)
    return wrong


async def _look_around(system: System) -> None:
    if not await _within(_DRAINED_WITHIN_S, lambda: _are_drained(system)):
        system.complaints.append("the streams are not drained")
    if system.ended:
        system.complaints.append(f"services ended by themselves {system.ended} times")
    for name, service in system.services.items():
        if "Traceback" in service.output:
            system.complaints.append(f"{name} printed a traceback: {_last_error(service.output)}")
    if system.longest_stream > _STREAM_MAX:
        system.complaints.append(f"a stream had {system.longest_stream:,} entries")
    if system.most_memory > _MEMORY_MAX:
        system.complaints.append(f"a service took {system.most_memory / 2**20:.0f} MiB")


async def _are_drained(system: System) -> bool:
    try:
        async with system.streams_client() as redis:
            return all([await _is_drained(redis, stream) for stream in system.streams])
    except (RedisError, OSError, aiohttp.ClientError):
        return False


async def _is_drained(redis: Streams, stream: str) -> bool:
    """True if the consumers have acknowledged every entry, and all entries are deleted."""
    for group in await redis.xinfo_groups(stream):
        if group["name"] == wire.STORE_GROUP.encode():
            return not group["pending"] and not await redis.xlen(stream)
    return False


def _last_error(output: str) -> str:
    errors = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Timeout\w*)\b.*$", output, re.MULTILINE)
    return errors[-1][:200] if errors else "see its log"
