"""Publish what a WebSocket client of your own receives, so that consumers store it: ``attach`` in place of a producer.

    python examples/own_client.py --symbols BTC/USDT --seconds 60

The client below stands for yours: it knows nothing of kraken-history. Its handlers are still called. Trades that it
misses leave ids missing, which the worker fetches. It needs REDIS_URL; `kraken-history env` prints that of `up`.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import aiohttp
from redis.exceptions import RedisError

from kraken_history.errors import HistoryError
from kraken_history.runtime.processes import connect_redis
from kraken_history.stream.publisher import Publisher, attach

KRAKEN_WS_URL = "wss://ws.kraken.com/v2"


class MyClient:
    """A small client with the two handlers that ``attach`` wraps."""

    def __init__(self) -> None:
        self.trades: Counter[str] = Counter()

    def on_trade(self, symbol: str, trade: dict[str, Any]) -> None:
        """Your own code for a trade."""
        self.trades[symbol] += 1

    def on_ohlc(self, symbol: str, candle: dict[str, Any], interval: int = 1) -> None:
        """Your own code for a candle that is still running."""

    async def run(self, url: str, symbols: Sequence[str]) -> None:
        """Subscribe to trades and candles, and call the handlers until the connection ends."""
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
            for channel in ("trade", "ohlc"):
                params = {"channel": channel, "symbol": list(symbols), "snapshot": True}
                await socket.send_json({"method": "subscribe", "params": params})
            async for message in socket:
                frame = json.loads(message.data)
                for row in frame.get("data", ()) if frame.get("channel") in ("trade", "ohlc") else ():
                    if frame["channel"] == "trade":
                        self.on_trade(row["symbol"], row)
                    else:
                        self.on_ohlc(row["symbol"], row, row["interval"])


async def main(arguments: argparse.Namespace) -> None:
    """Run the client for a while, with a publisher attached to it."""
    client = MyClient()
    async with (
        await connect_redis(arguments.redis_url) as redis,
        Publisher(redis, shards=arguments.shards) as publisher,
    ):
        attach(client, publisher)
        with suppress(TimeoutError):
            async with asyncio.timeout(arguments.seconds):
                await client.run(arguments.ws_url, arguments.symbols.split(","))
    for symbol, count in sorted(client.trades.items()):
        print(f"{symbol}: {count:,} trades seen")  # noqa: T201 — an example may
    print(f"{publisher.published_trades:,} trades published")  # noqa: T201 — the same


def _run(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", default="BTC/USDT", help="separated by commas (%(default)s)")
    parser.add_argument("--seconds", type=float, help="how long; by default until Ctrl-C")
    parser.add_argument("--ws-url", default=KRAKEN_WS_URL, help="(%(default)s)")
    parser.add_argument("--redis-url", default=os.environ.get("REDIS_URL"), help="default: REDIS_URL")
    parser.add_argument("--shards", type=int, default=int(os.environ.get("STREAM_SHARDS", "1")), help="STREAM_SHARDS")
    arguments = parser.parse_args(words)
    if not arguments.redis_url:
        parser.error("no Redis: set REDIS_URL or give --redis-url redis://:password@host:6379/0")
    try:
        asyncio.run(main(arguments))
    except KeyboardInterrupt:
        return 130
    except (HistoryError, RedisError, aiohttp.ClientError) as error:
        sys.stderr.write(f"own_client.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
