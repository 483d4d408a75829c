"""The endpoints for tests that Kraken does not have: ``/truth`` and ``/control``."""

import asyncio
from typing import Protocol

from aiohttp import web

from simulator import truth
from simulator.exchange import Exchange
from simulator.tape import Tape
from simulator.websocket import Hub

_HASHED_AT_ONCE = 10_000


class Controlled(Protocol):
    """The simulator, as the controls use it."""

    exchange: Exchange
    hub: Hub
    emitting: bool

    def start_emitting(self) -> None:
        """Start making trades."""

    def stop_emitting(self) -> None:
        """Stop making trades."""


class Inspection:
    """The handlers of ``/truth`` and ``/control``; requests that are not valid get HTTP 400 and a message."""

    def __init__(self, simulator: Controlled) -> None:
        self._simulator = simulator
        self._tapes = simulator.exchange.tapes
        self._witnesses = {symbol: truth.Witness(tape) for symbol, tape in self._tapes.items()}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Serve them."""
        router.add_get("/truth", self.truth)
        router.add_get("/truth/candles", self.candles)
        router.add_get("/truth/trades", self.trades)
        router.add_get("/control/state", self.state)
        router.add_post("/control/start", self.start)
        router.add_post("/control/stop", self.stop)
        router.add_post("/control/disconnect", self.disconnect)

    async def truth(self, request: web.Request) -> web.Response:
        """Count, ids, volume and digest of every symbol, all at the same moment."""
        for witness in self._witnesses.values():
            for _ in range(0, witness.not_hashed, _HASHED_AT_ONCE):  # hashing millions must not delay the feed
                witness.advance(_HASHED_AT_ONCE)
                await asyncio.sleep(0)
        return _json({symbol: witness.summary() for symbol, witness in self._witnesses.items()})

    async def candles(self, request: web.Request) -> web.Response:
        """All candles of ``symbol`` and ``interval``, from the trades."""
        interval = _number(request, "interval")
        return _json(truth.candles_page(self._tape(request), 1 if interval is None else max(interval, 1)))

    async def trades(self, request: web.Request) -> web.Response:
        """Trades of ``symbol`` from ``from_id`` to ``to_id``, both included."""
        page = truth.trades_page(self._tape(request), _number(request, "from_id"), _number(request, "to_id"))
        return _json(page)

    async def state(self, request: web.Request) -> web.Response:
        """Whether trades are being made, and how many there are, history included."""
        return self._state()

    async def start(self, request: web.Request) -> web.Response:
        """Make trades again."""
        self._simulator.start_emitting()
        return self._state()

    async def stop(self, request: web.Request) -> web.Response:
        """Make no more trades; sockets and REST stay."""
        self._simulator.stop_emitting()
        return self._state()

    async def disconnect(self, request: web.Request) -> web.Response:
        """Cut every WebSocket connection."""
        return _json({"disconnected": self._simulator.hub.disconnect_all()})

    def _state(self) -> web.Response:
        simulator = self._simulator
        return _json(
            {
                "emitting": simulator.emitting and not simulator.exchange.is_finished,
                "emitted": simulator.exchange.emitted,
                "finished": simulator.exchange.is_finished,
                "clients": len(simulator.hub.clients),
                "dropped_for_slowness": simulator.hub.dropped_for_slowness,
            }
        )

    def _tape(self, request: web.Request) -> Tape:
        symbol = request.query.get("symbol", "")
        if symbol not in self._tapes:
            raise _bad_question(f"symbol must be one of {', '.join(self._tapes)}")
        return self._tapes[symbol]


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _bad_question(f"{name} must be a whole number")
    return int(text)


def _bad_question(reason: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=truth.encode({"error": [reason]}).decode(), content_type="application/json")


def _json(answer: object) -> web.Response:
    return web.Response(body=truth.encode(answer), content_type="application/json")
