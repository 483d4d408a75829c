"""The endpoint ``/control/faults``: strike faults now, list them, end them, read their log."""

import json
from typing import Protocol

import msgspec
from aiohttp import web

from kraken_history.errors import UsageError
from simulator import truth
from simulator.exchange import Exchange
from simulator.faults.director import Director
from simulator.faults.events import ShiftedClock
from simulator.faults.log import Line, encode
from simulator.notation import NS


class Faulty(Protocol):
    """The simulator, as the endpoint uses it."""

    exchange: Exchange
    director: Director
    clock: ShiftedClock

    def inject(self, faults: object) -> list[Line]:
        """Arm faults from now on."""

    def end_faults(self) -> None:
        """End all faults."""


class FaultControl:
    """The handlers; a request that is not valid gets HTTP 400 and a message."""

    def __init__(self, simulator: Faulty) -> None:
        self._simulator = simulator

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Serve them."""
        router.add_post("/control/faults", self.post)
        router.add_get("/control/faults", self.get)
        router.add_delete("/control/faults", self.delete)
        router.add_get("/control/faults/log", self.log)

    async def post(self, request: web.Request) -> web.Response:
        """Arm the faults of the body: a JSON object, a list of them, or a text such as ``drop:count=2``."""
        text = (await request.read()).decode(errors="replace")
        try:
            struck = self._simulator.inject(_scenario(text))
        except UsageError as error:
            raise _bad_request(str(error)) from error
        return self._state(struck)

    async def get(self, request: web.Request) -> web.Response:
        """What may strike yet, what is in force, how much has struck, and which trades were busted."""
        return self._state([])

    async def delete(self, request: web.Request) -> web.Response:
        """End all faults, so that everything can heal."""
        self._simulator.end_faults()
        return self._state([])

    async def log(self, request: web.Request) -> web.Response:
        """The lines of the log behind the first ``after`` ones, one JSON object each."""
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            raise _bad_request("after must be a whole number")
        lines = self._simulator.director.log.after(int(after))
        return web.Response(text="".join(encode(line) + "\n" for line in lines), content_type="application/x-ndjson")

    def _state(self, struck: list[Line]) -> web.Response:
        simulator = self._simulator
        state = {
            "now_s": round(simulator.director.now_s, 3),
            "seed": simulator.director.seed,
            "armed": [rule.as_json() for rule in simulator.director.left()],
            "struck": [msgspec.to_builtins(line) for line in struck],
            "count": simulator.director.log.count,
            "system": simulator.exchange.system,
            "delisted": sorted(simulator.exchange.delisted),
            "busted": {symbol: sorted(ids) for symbol, ids in simulator.exchange.busted.items() if ids},
            "clock_offset_s": simulator.clock.offset_ns / NS,
        }
        return web.Response(body=truth.encode(state), content_type="application/json")


def _scenario(text: str) -> object:
    """JSON if it looks like it, else the text itself."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected JSON or text such as drop:count=2, got {text[:60]!r} ({error})") from error


def _bad_request(reason: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=json.dumps({"error": [reason]}), content_type="application/json")
