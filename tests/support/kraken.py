"""The simulator with a record of calls, its truth compared with the database, and a Kraken with scripted answers."""

import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiohttp import web

from kraken_history.kraken.client import KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.rest import TRADES_PAGE, Refusal
from kraken_history.records import HistoricalTrade
from kraken_history.symbols import Pair
from simulator import Simulator
from simulator.rate_limit import RateLimit
from simulator.rest import RestApi
from simulator.tape import TapeTrade
from simulator.truth import Witness, candles_page, digest_of

_REFUSAL = Refusal()
_NS = 10**9


class NoLimit:
    """Lets every call pass at once, and remembers the refusals."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []

    async def wait_for_turn(self, pair: str) -> None:
        """Do not wait."""

    async def note_refusal(self, pair: str, refusal: Refusal = _REFUSAL) -> float:
        """No pause."""
        self.refusals.append(refusal)
        return 0.0

    async def note_success(self, pair: str) -> None:
        """Do nothing."""


class _CountedApi(RestApi):
    """REST that records the time and subject of each call."""

    calls: list[tuple[float, str, str]]

    def answer(
        self, method: str, params: Mapping[str, str], address: str, older: Sequence[TapeTrade] | None = None
    ) -> bytes:
        self.calls.append((time.monotonic(), method, params.get("pair", "")))
        return super().answer(method, params, address, older)


class CountedSimulator(Simulator):
    """A simulator with history only, and by default without a limit on REST calls.

    Attributes:
        calls: Time, method and pair of each call, in order.
    """

    def __init__(
        self, symbols: tuple[str, ...], *, history: int, history_hours: float = 6.0,
        rest_burst: int = 1_000_000, rest_rate: float = 1_000_000.0,
    ) -> None:  # fmt: skip
        super().__init__(symbols=symbols, history=history, history_hours=history_hours, emitting=False)
        api = _CountedApi(self.exchange, RateLimit(rest_burst, rest_rate), time.time_ns)
        self.calls: list[tuple[float, str, str]] = []
        api.calls = self.calls
        self.rest = api

    def times_by_pair(self, *methods: str) -> dict[str, list[float]]:
        """Pair → the times at which one of these methods was requested; by default, Trades."""
        times: dict[str, list[float]] = defaultdict(list)
        for at, method, pair in self.calls:
            if method in (methods or ("Trades",)):
                times[pair].append(at)
        return times

    def ids(self, symbol: str) -> list[int]:
        """All ids of a book."""
        tape = self.exchange.tapes[symbol]
        return [trade.id for trade in tape.trades(0, len(tape))]


async def assert_equals_truth(pool: asyncpg.Pool, kraken: Simulator) -> None:
    """Every trade and every one-minute candle is in the database, once, as it was made, and nothing else is."""
    for symbol, tape in kraken.exchange.tapes.items():
        rows = await pool.fetch(
            "SELECT id, price, volume, side, order_type FROM trades WHERE symbol = $1 ORDER BY id", symbol
        )
        truth = Witness(tape).summary()
        assert (len(rows), digest_of(map(tuple, rows))) == (truth["count"], truth["sha256"]), symbol
        candles = await pool.fetch(
            """
            SELECT extract(epoch FROM timestamp)::bigint, open, high, low, close,
                   volume, quote_volume, vwap, trade_count
            FROM candles WHERE symbol = $1 AND source = 'trades' ORDER BY timestamp
            """,
            symbol,
        )
        assert [_plain(row) for row in candles] == [_true(candle) for candle in candles_page(tape, 1)["candles"]], (
            symbol
        )


def _plain(row: asyncpg.Record) -> list[str]:
    time_s, *numbers, count = row
    return [str(time_s), *(f"{number.normalize():f}" for number in numbers), str(count)]


def _true(candle: Mapping[str, Any]) -> list[str]:
    fields = ("time", "open", "high", "low", "close", "volume", "quote_volume", "vwap", "count")
    return [str(candle[field]) for field in fields]


@dataclass
class ScriptedKraken:
    """Gives its answers in turn, then repeats the last one."""

    url: str = ""
    answers: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(dict(request.query))
        body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(text=body, headers=self.headers)


@asynccontextmanager
async def scripted_kraken(*answers: str) -> AsyncIterator[ScriptedKraken]:
    """A server that gives just these answers."""
    kraken = ScriptedKraken(answers=list(answers))
    application = web.Application()
    application.router.add_get("/0/public/{method}", kraken._answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        kraken.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield kraken
    finally:
        await runner.cleanup()


BTC = PairMap().find("BTC/USDT")


async def all_trades(rest: KrakenRest, pair: Pair) -> Sequence[HistoricalTrade]:
    """Every trade that Kraken has of a pair, by id."""
    found: dict[int, HistoricalTrade] = {}
    cursor = 0
    while True:
        page = await rest.fetch_trades_page(pair, cursor)
        before = len(found)
        found |= {trade.id: trade for trade in page.trades}
        if len(found) == before:
            return [found[id_] for id_ in sorted(found)]
        cursor = page.last


BEGIN_S = 1_700_000_000


def row(id_: int | None, second: float) -> list[object]:
    """A trade as a row of Trades; without an id, the six fields of old pages."""
    fields: list[object] = ["30000.10000", "0.00100000", BEGIN_S + second, "b", "l", ""]
    return fields if id_ is None else [*fields, id_]


def page(*rows: list[object], last: int | None = None) -> str:
    result: dict[str, object] = {"XXBTZUSD": rows}
    if last is not None:
        result["last"] = str(last)
    return json.dumps({"error": [], "result": result})


def full_page(first_id: int | None, first_second: int, *, has_last: bool = True) -> str:
    """1,000 trades, one per second."""
    rows = [row(None if first_id is None else first_id + n, first_second + n) for n in range(TRADES_PAGE)]
    return page(*rows, last=(BEGIN_S + first_second + TRADES_PAGE - 1) * _NS if has_last else None)


@dataclass
class CountingLimiter:
    """Never waits, and records all calls."""

    events: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    async def wait_for_turn(self, pair: str) -> None:
        self.events.append(("turn", pair))

    async def note_refusal(self, pair: str, refusal: Refusal = _REFUSAL) -> float:
        self.events.append(("refusal", pair))
        self.refusals.append(refusal)
        return 0.0

    async def note_success(self, pair: str) -> None:
        self.events.append(("success", pair))

    def count(self, event: str) -> int:
        return sum(kind == event for kind, _ in self.events)
