"""The simulator as a server: one port for WebSocket, REST, the truth and the controls."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from kraken_history.errors import UsageError
from kraken_history.symbols import DEFAULT_SYMBOLS
from simulator.books import make_books
from simulator.exchange import Batch, Clock, Exchange, Feed, RecordedFeed, SeededFeed
from simulator.fault_control import FaultControl
from simulator.faults.answers import AnswerFaults
from simulator.faults.director import Director
from simulator.faults.events import Events, ShiftedClock
from simulator.faults.log import Line, Log
from simulator.faults.rules import rules_of
from simulator.inspection import Inspection
from simulator.listening import Port
from simulator.notation import NS
from simulator.rate_limit import RateLimit
from simulator.recording import read_recording
from simulator.rest import RestApi
from simulator.sending import send
from simulator.websocket import HEARTBEAT_S, MAX_QUEUED_BYTES, Hub

TICK_S = 0.01
"""Seconds between two rounds of making trades."""
_MAX_TICK_S = 1.0


class Simulator:
    """A simulated Kraken, used as ``async with Simulator(...) as kraken``.

    Args:
        symbols: The books, as ``BASE/QUOTE`` in WebSocket v2's spelling.
        recording: A page of REST Trades to play in place of seeded trades.
        seed: The same seed and symbols give the same trades.
        rate: Trades per second over all symbols, while emitting.
        history: Number of trades before any client connects.
        history_hours: Hours over which seeded history is spread.
        emitting: Make trades by the clock from the start; else only :meth:`emit` makes them.
        clock: Unix time in nanoseconds, for new trades and for REST's current time.
        rest_burst: REST calls that pass at once, per address and pair.
        rest_rate: Further REST calls that pass per second after that.
        faults: Rules of faults: text such as ``drop:p=0.02;reset:at_s=30``, or the decoded JSON of a scenario.
        fault_seed: The same seed and rules give the same faults.
        recorded_faults: Faults that an earlier run logged, to strike again.
        fault_log: A file for the log of faults, which is replaced.

    Raises:
        UsageError: A symbol, the recording, the rate, a fault or the port is not valid; the message says why.
    """

    def __init__(
        self,
        *,
        symbols: Sequence[str] = DEFAULT_SYMBOLS,
        recording: Path | None = None,
        seed: int = 0,
        rate: float = 5.0,
        history: int = 0,
        history_hours: float = 6.0,
        emitting: bool = True,
        clock: Clock = time.time_ns,
        rest_burst: int = 30,
        rest_rate: float = 1.0,
        heartbeat_s: float = HEARTBEAT_S,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: object = "",
        fault_seed: int = 0,
        recorded_faults: Sequence[Line] = (),
        fault_log: Path | None = None,
    ) -> None:
        if not 0 < rate <= 1_000_000:
            raise UsageError(f"expected a rate above 0 and up to 1,000,000 trades per second, got {rate}")
        books = make_books(symbols)
        rules, names = rules_of(faults), [book.symbol for book in books]
        self.clock = ShiftedClock(clock)
        self._seeded = SeededFeed(books, seed, self.clock)
        feed: Feed = RecordedFeed(read_recording(recording, books)) if recording else self._seeded
        self.exchange = Exchange(books, feed)
        self.exchange.emit_history(history, history_hours)
        self.director = Director(
            names,
            rules=rules,
            seed=fault_seed,
            recorded=recorded_faults,
            log=Log(fault_log),
            clock=time.monotonic,
        )
        self.hub = Hub(
            self.exchange,
            self.director,
            clock=self.clock,
            heartbeat_s=heartbeat_s,
            max_queued_bytes=max_queued_bytes,
        )
        self.rest = RestApi(self.exchange, RateLimit(rest_burst, rest_rate), self.clock)
        self.events = Events(self, self.director)
        self._answers = AnswerFaults(self.director)
        self._port = Port(host, port)
        self.emitting = emitting
        self._rate = rate
        self._emitter: asyncio.Task[None] | None = None

    @property
    def ws_url(self) -> str:
        """Where a WebSocket v2 client connects."""
        return self._port.ws_url

    @property
    def rest_url(self) -> str:
        """Stands for ``https://api.kraken.com``: paths begin with ``/0/public``, and ``/truth`` is here too."""
        return self._port.rest_url

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._port.host

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port.number

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, and make trades if ``emitting`` is set. Port 0 becomes the port that the system chose."""
        await self._port.open(self._application())
        self.director.start()
        self._emitter = asyncio.create_task(self._emit_by_clock())
        self._emitter.add_done_callback(_report_bug)

    async def stop(self) -> None:
        """Stop making trades, close the sockets, free the port. May be called twice, or before :meth:`start`."""
        if self._emitter is not None:
            self._emitter.cancel()
            await asyncio.wait([self._emitter])
            self._emitter = None
        await self.hub.close()
        await self._port.close()
        self.director.log.close()

    def inject(self, faults: object) -> list[Line]:
        """Arm faults from now on: text, one object, or a list of them, as for ``faults``; see :meth:`Director.arm`.

        Return the lines of those that happened at once, such as ``reset``.

        Raises:
            UsageError: One of them is not valid; none is armed.
        """
        due, _ = self.director.arm(faults)
        return [self.events.strike(strike) for strike in due]

    def end_faults(self) -> None:
        """Arm nothing more, and end what lasts: silence, maintenance, delistings, clock jumps."""
        self.director.clear()
        self.events.end_all()

    def emit(self, count: int) -> Batch:
        """Make this many trades now, publish and return them; fewer at the end of a recording."""
        batch = self.exchange.emit(count)
        self.hub.publish(batch)
        return batch

    def emit_at_once(self, count: int) -> Batch:
        """As :meth:`emit`, with all trades in one instant, as when one order sweeps a book.

        If more of them are of one book than a page of REST holds, REST never shows the others.
        """
        batch = self.exchange.emit_at_once(count)
        self.hub.publish(batch)
        return batch

    def skip_ids(self, symbol: str, count: int) -> None:
        """Leave out the next ids of a book: no seeded trade will ever have them. A recording keeps its ids."""
        self._seeded.skip_ids(symbol, count)

    def start_emitting(self) -> None:
        """Make trades by the clock from now on; trades of the pause are not made up for."""
        self.emitting = True

    def stop_emitting(self) -> None:
        """Make no trades until :meth:`start_emitting`; sockets and REST stay."""
        self.emitting = False

    async def _emit_by_clock(self) -> None:
        """On each tick, emit the trades that are due by the rate. After a stall of over a second, drop the excess."""
        due = 0.0
        seen = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            elapsed, seen = min(now - seen, _MAX_TICK_S), now
            self.events.tick()
            if not self.emitting or self.exchange.is_finished or self.exchange.system != "online":
                due = 0.0
                continue
            due += elapsed * self._rate
            if due >= 1:
                batch = self.exchange.emit(int(due), spread_ns=int(elapsed * 1e9), whole_orders=True)
                due = max(due - sum(map(len, batch.values())), 0.0) if batch else 0.0
                self.hub.publish(batch)

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v2", self.hub.handle)
        application.router.add_get("/0/public/{method}", self._answer_rest)
        Inspection(self).add_routes(application.router)
        FaultControl(self).add_routes(application.router)
        return application

    async def _answer_rest(self, request: web.Request) -> web.StreamResponse:
        method, query = request.match_info["method"], request.query
        body = self.rest.answer(method, query, request.remote or "")
        symbol = self.rest.symbol_of(query)
        answer = self._answers.struck(method, symbol, query.get("since", ""), body, self.clock() / NS)
        return await send(request, answer)


def _report_bug(emitter: asyncio.Task[None]) -> None:
    """Hand an exception of the emitter to the event loop, which logs it; nobody waits for that task."""
    if not emitter.cancelled():
        emitter.result()
