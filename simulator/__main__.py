"""``python -m simulator``: serve until interrupted."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from kraken_history.errors import UsageError
from kraken_history.symbols import DEFAULT_SYMBOLS
from simulator.faults.log import read_log
from simulator.server import Simulator


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit code 2, without the usage."""
        self.exit(2, f"simulator: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m simulator", description="Simulated Kraken: WebSocket v2 and REST on one port.")
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 chooses a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--trades",
        type=Path,
        metavar="FILE",
        help="play this page of REST Trades (Kraken's JSON), then send no more trades",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same trades (%(default)s)")
    parser.add_argument("--rate", type=float, default=5.0, help="trades per second over all symbols (%(default)s)")
    parser.add_argument(
        "--symbols",
        default=",".join(DEFAULT_SYMBOLS),
        help="comma-separated symbols, such as BTC/USDT or AAPLx/USD (%(default)s)",
    )
    parser.add_argument("--paused", action="store_true", help="make no trades until POST /control/start")
    parser.add_argument("--duration-s", type=float, help="stop after this many seconds (default: run until stopped)")
    parser.add_argument(
        "--history", type=int, default=0, help="number of trades before the start, for REST (%(default)s)"
    )
    parser.add_argument(
        "--history-hours", type=float, default=6.0, help="hours over which --history is spread (%(default)s)"
    )
    parser.add_argument(
        "--rest-burst", type=int, default=30, help="REST calls accepted at once, per address and pair (%(default)s)"
    )
    parser.add_argument(
        "--rest-rate", type=float, default=1.0, help="further REST calls accepted per second (%(default)s)"
    )
    faults = parser.add_argument_group("faults", "see docs/simulator.md")
    faults.add_argument(
        "--faults", default="", metavar="SPEC", help="faults of the run, such as 'drop:p=0.02;reset:at_s=30'"
    )
    faults.add_argument("--scenario", type=Path, metavar="FILE", help="further faults, a list in JSON")
    faults.add_argument("--fault-seed", type=int, default=0, help="the same seed gives the same faults (%(default)s)")
    faults.add_argument("--fault-log", type=Path, metavar="FILE", help="write a line for each fault that struck")
    faults.add_argument("--replay-faults", type=Path, metavar="FILE", help="strike the faults of such a log again")
    return parser


def _faults(arguments: argparse.Namespace) -> list[object]:
    """The faults of the text and of the scenario's file, decoded."""
    if arguments.scenario is None:
        return [arguments.faults]
    try:
        return [arguments.faults, json.loads(arguments.scenario.read_bytes())]
    except OSError as error:
        raise UsageError(f"cannot read the scenario {arguments.scenario}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected faults in JSON in {arguments.scenario} ({error})") from error


def _simulator(arguments: argparse.Namespace) -> Simulator:
    checks = {
        "--port must be between 0 and 65535": 0 <= arguments.port <= 65535,
        "--rate must be more than 0": arguments.rate > 0,
        "--duration-s must be more than 0": arguments.duration_s is None or arguments.duration_s > 0,
        "--history must not be negative": arguments.history >= 0,
        "--history-hours must be more than 0": 0 < arguments.history_hours <= 200_000,
        "--rest-burst must be at least 1": arguments.rest_burst >= 1,
        "--rest-rate must not be negative": arguments.rest_rate >= 0,
    }
    for complaint, is_fine in checks.items():
        if not is_fine:
            raise UsageError(complaint)
    return Simulator(
        symbols=[symbol.strip() for symbol in arguments.symbols.split(",") if symbol.strip()],
        recording=arguments.trades,
        seed=arguments.seed,
        rate=arguments.rate,
        history=arguments.history,
        history_hours=arguments.history_hours,
        emitting=not arguments.paused,
        rest_burst=arguments.rest_burst,
        rest_rate=arguments.rest_rate,
        host=arguments.host,
        port=arguments.port,
        faults=_faults(arguments),
        fault_seed=arguments.fault_seed,
        recorded_faults=read_log(arguments.replay_faults) if arguments.replay_faults else (),
        fault_log=arguments.fault_log,
    )


async def _serve(simulator: Simulator, duration_s: float | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with simulator:
        sys.stdout.write(f"simulator: listening, WebSocket {simulator.ws_url} REST {simulator.rest_url}/0/public\n")
        sys.stdout.flush()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopped.wait(), duration_s)


def main(command_line: Sequence[str] | None = None) -> int:
    """Serve; return 0 after a clean stop, 2 for arguments that are not valid."""
    arguments = _parser().parse_args(command_line)
    try:
        asyncio.run(_serve(_simulator(arguments), arguments.duration_s))
    except UsageError as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
