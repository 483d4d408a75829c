"""Writes and reads the sign of life that each running service leaves in Redis."""

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.signs import Sign, Signs, decode_sign, encode_sign
from kraken_history.runtime.telemetry import get_logger
from kraken_history.urls import DEFAULT_PREFIX

HEALTH_PREFIX = f"{DEFAULT_PREFIX}:health:"
"""First part of the keys of all signs of life, with the usual prefix."""

BEAT_EVERY_S = 2.0

BEAT_LASTS_S = 15

_PAGE = 1000  # keys that one SCAN examines


def health_prefix(redis: Redis) -> str:
    """First part of the keys of all signs of life."""
    return f"{prefix_of(redis)}:health:"


async def beat(redis: Redis, name: str, look: Callable[[], Sign]) -> None:
    """Write a sign of life every two seconds until cancelled. It expires 15 seconds after the last write.

    Args:
        look: Returns the sign as of now.
    """
    while True:
        sign = look()
        try:
            await redis.set(f"{health_prefix(redis)}{sign.service}:{name}", encode_sign(sign), ex=BEAT_LASTS_S)
        except (RedisError, OSError):
            get_logger(sign.service).warning("beat_failed")
        await asyncio.sleep(BEAT_EVERY_S)


async def signs_of_life(redis: Redis) -> Signs:
    """The services that are alive now. An entry that cannot be decoded is included as unreadable, without an error."""
    bodies: dict[bytes, bytes] = {}
    cursor, prefix = 0, health_prefix(redis)
    while True:
        cursor, keys = await redis.scan(cursor, match=f"{prefix}*", count=_PAGE)
        if keys:
            # None: the key has expired since the SCAN, or is not a string.
            bodies |= {key: body for key, body in zip(keys, await redis.mget(keys), strict=True) if body is not None}
        if not cursor:
            break
    names = {key: key.decode(errors="replace").removeprefix(prefix) for key in bodies}
    return Signs({names[key]: decode_sign(names[key], bodies[key]) for key in sorted(bodies)})
