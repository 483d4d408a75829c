"""Faults that happen at a second of the run: to the sockets, the market, and the clock."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec.structs import replace

from simulator.exchange import Clock, Exchange
from simulator.faults.director import Director
from simulator.faults.kinds import Value
from simulator.faults.log import Line
from simulator.faults.plan import Strike
from simulator.notation import NS
from simulator.websocket import Hub

Hit = dict[str, object]


class ShiftedClock:
    """A clock that can jump.

    Attributes:
        source: The clock that this one is ahead of by ``offset_ns``.
    """

    def __init__(self, clock: Clock) -> None:
        self.offset_ns = 0
        self.source = clock

    def __call__(self) -> int:
        return self.source() + self.offset_ns


class Afflicted(Protocol):
    """The simulator, as these faults change it."""

    exchange: Exchange
    hub: Hub
    clock: ShiftedClock

    def skip_ids(self, symbol: str, count: int) -> None:
        """Leave out the next ids of a book."""


class Events:
    """Carries the faults out, and ends those that last for a while."""

    def __init__(self, simulator: Afflicted, director: Director) -> None:
        self._simulator = simulator
        self._director = director
        self._next_second = 0
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._maintenances = 0
        self._actions: Mapping[str, Callable[[Mapping[str, Value]], Hit]] = {
            "close": self._close,
            "cut": lambda args: {"clients": simulator.hub.disconnect_all()},
            "reset": lambda args: {"clients": simulator.hub.reset_all()},
            "silence": self._silence,
            "delist": self._delist,
            "maintenance": self._maintain,
            "skip_ids": self._skip_ids,
            "bust": self._bust,
            "clock_jump": self._jump,
        }

    def tick(self) -> None:
        """Do what is due: each second of the run in turn, and the ends."""
        now_s = self._director.now_s
        while self._next_second <= now_s:
            for strike in self._director.ask("second", n=self._next_second):
                self.strike(strike)
            self._next_second += 1
        for end in [end for end in self._ends if end[0] <= now_s]:
            self._ends.remove(end)
            end[1]()

    def strike(self, strike: Strike) -> Line:
        """Carry a fault out now, and log it."""
        hit = self._actions[strike.fault](strike.args)
        if strike.fault == "bust":  # a replay must hit the same trade, not the newest at its time
            strike = replace(strike, args={**strike.args, "id": int(str(hit["id"]))})
        return self._director.record(strike, hit)

    def end_all(self) -> None:
        """End everything that lasts, at once."""
        for client in self._simulator.hub.clients:
            client.pipe.end_silence()
        ends, self._ends = self._ends, []
        for _, end in ends:
            end()

    def _later(self, s: Value, end: Callable[[], None]) -> None:
        """End something after some seconds; 0 is at :meth:`end_all`."""
        self._ends.append((self._director.now_s + float(s) if s else float("inf"), end))

    def _close(self, args: Mapping[str, Value]) -> Hit:
        hub = self._simulator.hub
        closing = asyncio.create_task(hub.close(int(args["code"])))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return {"clients": len(hub.clients)}

    def _silence(self, args: Mapping[str, Value]) -> Hit:
        heartbeats = args["heartbeats"] == "yes"
        hub = self._simulator.hub
        return {"clients": hub.silence(float(args["s"]), symbol=str(args.get("symbol", "")), heartbeats=heartbeats)}

    def _delist(self, args: Mapping[str, Value]) -> Hit:
        symbol, exchange = str(args["symbol"]), self._simulator.exchange
        exchange.delisted.add(symbol)
        self._later(args["s"], lambda: exchange.delisted.discard(symbol))
        return {"symbol": symbol, "last_id": exchange.tapes[symbol].last_id}

    def _maintain(self, args: Mapping[str, Value]) -> Hit:
        self._maintenances += 1
        self._set_system(str(args["status"]))
        self._later(args["s"], self._end_maintenance)
        return {"clients": len(self._simulator.hub.clients)}

    def _end_maintenance(self) -> None:
        self._maintenances -= 1
        if not self._maintenances:
            self._set_system("online")

    def _set_system(self, system: str) -> None:
        self._simulator.exchange.system = system
        self._simulator.hub.send_status()

    def _skip_ids(self, args: Mapping[str, Value]) -> Hit:
        symbol = str(args["symbol"])
        self._simulator.skip_ids(symbol, int(args["n"]))
        return {"symbol": symbol, "after_id": self._simulator.exchange.tapes[symbol].last_id}

    def _bust(self, args: Mapping[str, Value]) -> Hit:
        symbol, exchange = str(args["symbol"]), self._simulator.exchange
        trade_id = int(args["id"])
        for trade in [] if trade_id else exchange.latest_shown(symbol, 1):
            trade_id = trade.id
        if trade_id:
            exchange.busted[symbol].add(trade_id)
        return {"symbol": symbol, "id": trade_id}

    def _jump(self, args: Mapping[str, Value]) -> Hit:
        clock, by_ns = self._simulator.clock, int(float(args["by_s"]) * NS)

        def move(ns: int) -> None:
            clock.offset_ns += ns

        move(by_ns)
        self._later(args["s"], lambda: move(-by_ns))
        return {"offset_s": clock.offset_ns / NS}
