"""``python -m replaying``: serve a replay until its end; ``kraken-history replay`` starts it."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, NoReturn

from kraken_history.errors import HistoryError, UsageError
from kraken_history.provider import HistoricalDataProvider
from replaying.server import ReplayServer
from replaying.stored import StoredHistory, Wanted, read_books

AS_FAST_AS_POSSIBLE = "max"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit code 2, without the usage."""
        self.exit(2, f"replay: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m replaying", description="Replay of stored trades as Kraken: WebSocket and REST.")
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", help="for example BTC/USDT; default: all stored ones")
    parser.add_argument("--from", dest="start", type=datetime.fromisoformat, required=True, help="start, with offset")
    parser.add_argument("--to", dest="end", type=datetime.fromisoformat, required=True, help="end, not included")
    parser.add_argument("--speed", type=_speed, default=1.0, help="seconds of history per second, or max (%(default)s)")
    parser.add_argument("--gaps", choices=("raise", "ignore"), default="raise", help="if part of the range is missing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8800, help="port to listen on; 0 chooses a free one (%(default)s)")
    parser.add_argument("--stay", action="store_true", help="keep serving after the end, until interrupted")
    parser.add_argument("--lifeline", type=int, metavar="FD", help="end when the other end of this pipe is closed")
    return parser


def _speed(text: str) -> float | None:
    speed = None if text == AS_FAST_AS_POSSIBLE else float(text)
    if speed is not None and not 0 < speed < float("inf"):
        raise ValueError
    return speed


async def _serve(database_url: str, arguments: argparse.Namespace) -> None:
    wanted = Wanted(arguments.symbols, arguments.start, arguments.end, arguments.speed, arguments.gaps)
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=2) as provider:
        history = StoredHistory(provider, wanted)
        symbols = await history.symbols()
        books = await read_books(database_url, symbols, wanted.span)
        server = ReplayServer(history, wanted, books, history.trades(symbols), host=arguments.host, port=arguments.port)
        try:
            await server.open()
            _say(f"listening, WebSocket {server.port.ws_url} REST {server.port.rest_url}/0/public")
            sent = await server.play()
            _say(f"{sent:,} trade(s) of {len(symbols)} symbol(s) sent")
            if arguments.stay:
                await asyncio.Event().wait()
        finally:
            await server.close()


def _say(text: str) -> None:
    sys.stdout.write(f"replay: {text}\n")
    sys.stdout.flush()


async def _until_interrupted(work: Coroutine[Any, Any, None], lifeline: int | None) -> None:
    task, stop, loop = asyncio.ensure_future(work), asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)  # nothing is ever written to it
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if lifeline is not None:
        loop.remove_reader(lifeline)
    if not task.done():
        task.cancel()  # once, although a terminal and the command may both send a signal
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def main(command_line: Sequence[str] | None = None) -> int:
    """Serve; return 0 at the end or after an interruption, 2 for wrong arguments, 1 for any other failure."""
    arguments = _parser().parse_args(command_line)
    try:
        if not 0 <= arguments.port <= 65535:
            raise UsageError("--port must be between 0 and 65535")
        database_url = os.environ.get("DATABASE_URL", "")
        if not database_url:
            raise UsageError("expected the database in DATABASE_URL: use `kraken-history replay`, which sets it")
        asyncio.run(_until_interrupted(_serve(database_url, arguments), arguments.lifeline))
    except HistoryError as error:
        sys.stderr.write(f"replay: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
