"""Faults of Kraken's own: frames, answers, symbols and clocks, struck by the simulator."""

import asyncio
import importlib.util

from tests.faults.scenario import scenario
from tests.faults.servers import NotHereError
from tests.faults.system import SYMBOLS, System

_ABSENT_S = 150.0
_ABSENT = "an id counts as absent when two pages, requested at least a minute apart, pass over it"


def _faults_on_demand() -> None:
    if importlib.util.find_spec("simulator.fault_control") is None:
        raise NotHereError("this simulator has no faults on demand")


async def _strike(system: System, faults: str, seconds: float = 10.0) -> None:
    """Strike faults for some time, with trading going on; then end them all."""
    await system.kraken.ask("POST", "/control/faults", text=faults)
    await asyncio.sleep(seconds)
    await system.kraken.ask("DELETE", "/control/faults")


def _register(name: str, says: str, faults: str, *, hole: bool = False, bound_s: float | None = None, why: str = "",
              seconds: float = 10.0) -> None:  # fmt: skip
    @scenario(f"kraken-{name}", says, needs=_faults_on_demand, bound_s=bound_s, why=why)
    async def _(system: System) -> None:
        if hole:
            await system.kraken.ask("POST", "/control/faults", text=faults)
            await system.make_hole()
        await _strike(system, faults, seconds)


_register("drops-frames", "A tenth of the frames is lost.", "drop:p=0.1")
_register("repeats-frames", "A third of the frames comes again, up to three times.", "repeat:p=0.3,times=3")
_register("reorders-frames", "A third of the frames comes after later ones.", "reorder:p=0.3")
_register("delays-frames", "A tenth of the frames, and all behind them, are late.", "delay:p=0.1")
_register("truncates-frames", "A tenth of the frames is cut.", "truncate:p=0.1")
_register("corrupts-frames", "A tenth of the frames is not JSON any more.", "corrupt:p=0.1")
_register("splits-and-merges", "Frames are split in two, and merged with the next.", "split:p=0.3;merge:p=0.3")
_register("omits-trades", "A twentieth of the trades is in no frame.", "omit:p=0.05")
_register("everything-at-once", "Frames are lost, repeated, reordered, cut, split and merged at once.",
          "drop:p=0.05;repeat:p=0.1;reorder:p=0.1;truncate:p=0.05;split:p=0.1;merge:p=0.1;omit:p=0.02")  # fmt: skip
_register("closes-sockets", "Sockets are closed with a code, cut, and reset.",
          "close:at_s=1;cut:at_s=4;reset:at_s=7")  # fmt: skip
_register("silent-with-heartbeats", "Open sockets lose all frames but the heartbeats for 20 s.",
          "silence:s=20,heartbeats=yes", seconds=20)  # fmt: skip
_register("silent-without-heartbeats", "Open sockets lose all frames for 20 s.", "silence:s=20,heartbeats=no",
          seconds=20)  # fmt: skip
_register("late-acknowledgements", "Sockets are cut, and acknowledgements are late.",
          "late_ack:s=3,for_s=10;cut:at_s=1;cut:at_s=5")  # fmt: skip
_register("refuses-a-symbol", "A symbol is refused on new connections for 10 s.",
          f"refuse:symbol={SYMBOLS[0]},for_s=10;reset:at_s=1", bound_s=25.0,
    why="a refused symbol is asked for again after 5, 10, 20 s and so on")  # fmt: skip
_register("handshakes-fail", "Sockets are reset, and handshakes are answered with 5xx for 10 s.",
          "handshake:for_s=10;reset:at_s=1", bound_s=30.0,
          why="the producer pauses for 5 s and longer after five attempts to connect")  # fmt: skip
_register("maintenance", "Kraken is in maintenance, closes the sockets and refuses new ones for 10 s.",
          "maintenance:at_s=1,s=10;close:at_s=1,code=1001;handshake:at_s=1,for_s=10,status=503;"
          "error:at_s=1,for_s=10,form=unavailable", seconds=12, bound_s=30.0,
          why="the producer pauses for 5 s and longer after five attempts to connect")  # fmt: skip
_register("delists-a-symbol", "A symbol is neither traded nor listed for 10 s.", f"delist:symbol={SYMBOLS[2]},s=10")
_register("throttles-rest", "REST refuses half of the calls, in all of its forms.", "throttle:p=0.5,for_s=15",
          hole=True, bound_s=70.0, why="after refusals, workers pause for 5 s and longer")  # fmt: skip
_register("rest-errors", "REST answers half of the calls with errors that pass.", "error:p=0.5,for_s=15",
          hole=True, bound_s=70.0, why="after refusals, workers pause for 5 s and longer")  # fmt: skip
_register("rest-times-out", "REST answers late, or not at all.", "timeout:p=0.3,s=5,for_s=15;slow:p=0.3,for_s=15",
          hole=True, bound_s=70.0, why="after refusals, workers pause for 5 s and longer")  # fmt: skip
_register("rest-cuts-bodies", "Bodies of REST are cut or empty.", "cut_body:p=0.4,for_s=15;empty_body:p=0.2,for_s=15",
          hole=True, bound_s=70.0, why="after refusals, workers pause for 5 s and longer")  # fmt: skip
_register("rest-does-not-advance", "Pages of Trades come again instead of the next.", "stuck_page:p=0.5,for_s=10",
          hole=True, bound_s=70.0, why="a page in doubt is requested again after a pause")  # fmt: skip
_register("rest-omits-rows", "Rows are missing inside pages of Trades.", "omit_rows:p=0.5,for_s=10",
          hole=True, bound_s=_ABSENT_S, why=_ABSENT)  # fmt: skip
_register("ids-do-not-exist", "Ids are skipped: no trade will ever have them.",
          "skip_ids:at_s=1;skip_ids:at_s=3;skip_ids:at_s=5", bound_s=_ABSENT_S, why=_ABSENT)  # fmt: skip
_register("clock-jumps", "The exchange's clock jumps an hour ahead for 5 s.", "clock_jump:at_s=1,by_s=3600,s=5")
