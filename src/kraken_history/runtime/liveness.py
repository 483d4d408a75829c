"""The sign of life that each running service leaves in Redis."""

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kraken_history.runtime.telemetry import get_logger

HEALTH_PREFIX = "kraken:health:"


BEAT_EVERY_S = 2.0


BEAT_LASTS_S = 15


async def beat(redis: Redis, service: str, name: str, facts: Callable[[], Mapping[str, object]]) -> None:
    """Leave a sign of life every two seconds until cancelled; it fades 15 seconds after the last.

    Args:
        facts: What else to tell; ``healthy`` (bool) is what health checks read, true where absent.
    """
    key = f"{HEALTH_PREFIX}{service}:{name}"
    while True:
        body = {"pid": os.getpid(), "at": datetime.now(UTC), "healthy": True, **facts()}
        try:
            await redis.set(key, msgspec.json.encode(body), ex=BEAT_LASTS_S)
        except (RedisError, OSError):
            get_logger(service).warning("beat_failed")
        await asyncio.sleep(BEAT_EVERY_S)


def live_ids_of(signs: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """By symbol, the newest trade id that a producer has seen which is connected now."""
    newest: dict[str, int] = {}
    for service, sign in signs.items():
        if service.startswith("producer:") and sign.get("healthy"):
            for symbol, id_ in sign.get("last_ids", {}).items():
                if symbol not in sign.get("refused", {}):
                    newest[symbol] = max(id_, newest.get(symbol, id_))
    return newest


def wanted_days_of(signs: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """By symbol, how many days of history the living workers see to."""
    wanted: dict[str, int] = {}
    for service, sign in signs.items():
        if service.startswith("worker:"):
            for symbol in sign.get("symbols", ()):
                wanted[symbol] = max(sign.get("history_days", 0), wanted.get(symbol, 0))
    return wanted


async def signs_of_life(redis: Redis) -> dict[str, dict[str, object]]:
    """The services alive now, as ``service:name`` → what they told."""
    alive: dict[str, dict[str, object]] = {}
    async for key in redis.scan_iter(match=f"{HEALTH_PREFIX}*", count=1000):
        body = await redis.get(key)
        if body is not None:
            alive[key.decode().removeprefix(HEALTH_PREFIX)] = msgspec.json.decode(body)
    return dict(sorted(alive.items()))
