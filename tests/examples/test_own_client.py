"""The example of ``attach``: what somebody's own client receives is published, and a consumer can read it."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import redis.asyncio

from simulator import Simulator
from tests.producers.streams import published_candles, published_trades

REPOSITORY = Path(__file__).resolve().parents[2]


async def run_own_client(*words: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "examples/own_client.py", *words],
        cwd=REPOSITORY, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip


async def test_what_the_client_receives_is_published_without_a_loss(redis_url: str) -> None:
    async with Simulator(symbols=["BTC/USDT", "ETH/USDT"], rate=200, history=300) as kraken:
        done = await run_own_client(
            "--symbols", "BTC/USDT,ETH/USDT", "--seconds", "3", "--ws-url", kraken.ws_url, "--redis-url", redis_url
        )
    async with redis.asyncio.Redis.from_url(redis_url) as connection:
        trades, candles = await published_trades(connection), await published_candles(connection)

    assert (done.returncode, done.stderr) == (0, "")
    seen = {symbol: int(count.replace(",", "")) for symbol, count in re.findall(r"(\S+): ([\d,]+) trades", done.stdout)}
    assert seen.keys() == {"BTC/USDT", "ETH/USDT"}
    assert f"{len(trades):,} trades published" in done.stdout
    for symbol, count in seen.items():
        ids = [trade.id for trade in trades if trade.symbol == symbol]
        assert len(ids) == count > 50
        assert ids == list(range(ids[0], ids[0] + count))
    assert {candle.symbol for candle in candles} == {"BTC/USDT", "ETH/USDT"}


async def test_what_is_missing_is_one_line() -> None:
    without = await run_own_client()
    away = await run_own_client("--redis-url", "redis://:secret@127.0.0.1:1/0")

    assert (without.returncode, without.stdout) == (2, "")
    assert "no Redis: set REDIS_URL" in without.stderr
    assert (away.returncode, away.stdout, away.stderr.count("\n")) == (1, "", 1)
    assert "secret" not in away.stderr
