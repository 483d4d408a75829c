"""Writes and reads the sign of life that each running service leaves in Redis."""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kraken_history.runtime.clocks import Clocks
from kraken_history.runtime.logs import get_logger
from kraken_history.runtime.redis_connections import prefix_of
from kraken_history.runtime.signs import Sign, Signs, decode_sign, encode_sign
from kraken_history.urls import DEFAULT_PREFIX

HEALTH_PREFIX = f"{DEFAULT_PREFIX}:health:"
"""First part of the keys of all signs of life, with the usual prefix."""

BEAT_EVERY_S = 2.0

BEAT_LASTS_S = 15

SILENT_AFTER_S = 3 * BEAT_EVERY_S
"""Age of a sign, in seconds, from which its service was probably killed: it should have written two more."""

_LEAVE_WITHIN_S = 1.0  # the stop must not wait longer for a Redis that is away; the sign then expires by itself

_PAGE = 1000  # keys that one SCAN examines


def health_prefix(redis: Redis) -> str:
    """First part of the keys of all signs of life."""
    return f"{prefix_of(redis)}:health:"


async def beat(redis: Redis, name: str, look: Callable[[], Sign], clocks: Clocks | None = None) -> None:
    """Write a sign of life every two seconds until cancelled, and then remove it.

    If the process is killed, the sign expires 15 seconds after the last write. Each call has a key of its own, so that
    processes with equal names, for example on cloned machines, do not overwrite each other's signs.

    Args:
        look: Returns the sign as of now.
        clocks: Asked for the time of Redis before each sign, which tells how far this machine's clock is off.
    """
    key, own = "", f"{name}~{secrets.token_hex(4)}"
    clocks = clocks or Clocks()
    try:
        while True:
            with suppress(RedisError, OSError):  # the write fails next, and says so
                await clocks.ask(redis)
                clocks.report()
            sign = replace(look(), clock_ahead_s=clocks.ahead_s)
            key = f"{health_prefix(redis)}{sign.service}:{own}"
            try:
                await redis.set(key, encode_sign(sign), ex=BEAT_LASTS_S)
            except (RedisError, OSError):
                get_logger(sign.service).warning("beat_failed")
            await asyncio.sleep(BEAT_EVERY_S)
    finally:
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(_LEAVE_WITHIN_S):
                await redis.delete(key)


async def signs_of_life(redis: Redis) -> Signs:
    """The services that are alive now. An entry that cannot be decoded is included as unreadable, without an error."""
    bodies: dict[bytes, bytes] = {}
    left_ms: dict[bytes, int] = {}
    cursor, prefix = 0, health_prefix(redis)
    while True:
        cursor, keys = await redis.scan(cursor, match=f"{prefix}*", count=_PAGE)
        if keys:
            # None: the key has expired since the SCAN, or is not a string.
            bodies |= {key: body for key, body in zip(keys, await redis.mget(keys), strict=True) if body is not None}
            left_ms |= await _time_left(redis, keys)
        if not cursor:
            break
    names = {key: key.decode(errors="replace").removeprefix(prefix) for key in bodies}
    processes = Counter(map(name_of, names.values()))
    shown = {key: name if processes[name_of(name)] > 1 else name_of(name) for key, name in names.items()}
    ages_s = {shown[key]: BEAT_LASTS_S - left_ms[key] / 1000 for key in bodies if left_ms[key] >= 0}
    return Signs({shown[key]: decode_sign(names[key], bodies[key]) for key in sorted(bodies)}, ages_s)


def name_of(key: str) -> str:
    """``<service>:<name>`` of an entry of :class:`Signs`, also if several processes have this name."""
    return _OWN.sub("", key)


_OWN = re.compile(r"~[0-9a-f]{8}$")  # what tells the processes of one name apart


async def _time_left(redis: Redis, keys: Sequence[bytes]) -> dict[bytes, int]:
    """By key: milliseconds until it expires; negative if it does not, or has."""
    async with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        return dict(zip(keys, await pipeline.execute(), strict=True))
