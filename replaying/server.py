"""The server of a replay: WebSocket v2 and REST on one port, and a task that sends the trades when they are due."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from aiohttp import web

from kraken_history.errors import ServiceUnavailable
from kraken_history.records import HistoricalTrade, unix_ns
from replaying.clock import ReplayClock
from replaying.feed import StoredFeed
from replaying.stored import StoredHistory, Wanted, by_symbol
from simulator.books import Book
from simulator.exchange import Exchange
from simulator.faults.director import Director
from simulator.listening import Port
from simulator.rate_limit import RateLimit
from simulator.rest import RestApi
from simulator.websocket import Hub

KEPT_TRADES = 10_000
"""Number of the newest trades per symbol that are in memory; REST reads older ones from the database."""

MAX_QUEUED_BYTES = 1024 * 1024
"""Bytes that wait for a client, at which a replay without a speed waits for it."""

_CLIENT_PATIENCE_S = 30.0  # longest wait for one client, which may have stopped reading
_SUBSCRIBING_S = 1.0  # from the last new subscription to the start, for clients that subscribe one by one
_POLL_S = 0.05
_LONGEST_SLEEP_S = 0.5  # so that /control/stop is noticed
_ORDERS_AT_ONCE = 50
_REST_BURST, _REST_RATE = 30, 1.0  # as the simulator's; Kraken publishes none


class ReplayServer:
    """Serves one replay on one port.

    The clock stands at the start of the range until a client has subscribed to ``trade`` or ``ohlc``, and for one
    second more, or until ``POST /control/start``.

    Args:
        trades: The trades of the range, which this server closes.
        port: 0 chooses a free one.
    """

    def __init__(
        self,
        history: StoredHistory,
        wanted: Wanted,
        books: Sequence[Book],
        trades: AsyncGenerator[HistoricalTrade, None],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        kept_trades: int = KEPT_TRADES,
        rest_burst: int = _REST_BURST,
        heartbeat_s: float = 1.0,
    ) -> None:
        self.clock = ReplayClock(unix_ns(wanted.start), wanted.speed)
        self.feed = StoredFeed(trades, by_symbol(books), self.clock)
        self.exchange = Exchange(books, self.feed, kept_trades)
        self.port = Port(host, port)
        self._director = Director([book.symbol for book in books], clock=time.monotonic)
        self.hub = Hub(self.exchange, self._director, clock=self.clock, heartbeat_s=heartbeat_s)
        self.rest = RestApi(self.exchange, RateLimit(rest_burst, _REST_RATE), self.clock)
        self._history = history
        self._trades = trades
        self._is_paced = wanted.speed is not None
        self._end_ns = min(unix_ns(wanted.end), time.time_ns())

    async def open(self) -> None:
        """Check the history, and listen.

        Raises:
            CoverageError: Part of the range is missing.
            UsageError: The port cannot be used, or a trade cannot be replayed.
        """
        await self.feed.read_order()
        await self.port.open(self._application())
        self._director.start()

    async def close(self) -> None:
        """Close the sockets, as Kraken does when it goes away, and free the port."""
        await self.hub.close()
        await self.port.close()
        await self._trades.aclose()

    async def play(self) -> int:
        """Send all trades, each when it is due, and return how many they were when the end of the range is reached.

        Raises:
            HistoryError: The rest of the trades cannot be read.
        """
        await self._wait_for_subscribers()
        orders, order = 0, self.feed.order
        while order:
            await self._wait_until(order[0].time_ns)
            self.clock.advance(order[0].time_ns)
            self.hub.publish(self.exchange.emit(len(order)))
            orders += 1
            if not orders % _ORDERS_AT_ONCE:
                await self._let_clients_read()
            order = await self.feed.read_order()
        await self._wait_until(self._end_ns)
        self.clock.advance(self._end_ns)
        await self._drain(0)
        return self.exchange.emitted

    async def _wait_for_subscribers(self) -> None:
        seen, since = 0, time.monotonic()
        while not self.clock.is_running:
            count = sum(len(client.session.subscriptions) for client in self.hub.clients)
            if count != seen:
                seen, since = count, time.monotonic()
            if seen and time.monotonic() - since >= _SUBSCRIBING_S:
                self.clock.run()
            else:
                await asyncio.sleep(_POLL_S)

    async def _wait_until(self, time_ns: int) -> None:
        while True:
            if not self.clock.is_running:
                await asyncio.sleep(_POLL_S)
                continue
            left_s = self.clock.seconds_until(time_ns)
            if not left_s:
                return
            await asyncio.sleep(min(left_s, _LONGEST_SLEEP_S))

    async def _let_clients_read(self) -> None:
        await asyncio.sleep(0)
        if not self._is_paced:
            await self._drain(MAX_QUEUED_BYTES)

    async def _drain(self, bytes_: int) -> None:
        """Wait until no more than this is queued for any client. A client that does not read is dropped later."""
        give_up = time.monotonic() + _CLIENT_PATIENCE_S
        while self.hub.most_queued_bytes > bytes_ and time.monotonic() < give_up:  # noqa: ASYNC110 — the queues tell nobody
            await asyncio.sleep(0.001)

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v2", self.hub.handle)
        application.router.add_get("/0/public/{method}", self._answer_rest)
        application.router.add_get("/control/state", self._state)
        application.router.add_post("/control/start", self._start)
        application.router.add_post("/control/stop", self._stop)
        return application

    async def _answer_rest(self, request: web.Request) -> web.Response:
        method, params, address = request.match_info["method"], request.query, request.remote or ""
        page, older = self.rest.dropped_page(method, params), None
        if page is not None:
            book = self.exchange.books[page.symbol]
            newest = next(iter(self.exchange.tapes[page.symbol].latest(1)), None)
            with suppress(ServiceUnavailable):
                older = await self._history.page(book, page, newest)
            if older is None:  # the database is away, as Kraken's service sometimes is
                return web.Response(body=b'{"error":["EService:Unavailable"]}', content_type="application/json")
        return web.Response(body=self.rest.answer(method, params, address, older), content_type="application/json")

    async def _state(self, request: web.Request) -> web.Response:
        state = {
            "running": self.clock.is_running,
            "finished": self.feed.is_finished,
            "emitted": self.exchange.emitted,
            "clients": len(self.hub.clients),
            "dropped_for_slowness": self.hub.dropped_for_slowness,
        }
        return web.json_response(state)

    async def _start(self, request: web.Request) -> web.Response:
        self.clock.run()
        return await self._state(request)

    async def _stop(self, request: web.Request) -> web.Response:
        self.clock.stop()
        return await self._state(request)
