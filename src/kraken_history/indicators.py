"""External indicators: fear and greed from alternative.me, bitcoin's dominance from coingecko.

The worker fetches them only if they are enabled. A figure has the time that its source gives it, so that none is known
before it was. A figure that is fetched again is replaced, so fetching may be repeated.
"""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import aiohttp
import asyncpg
import msgspec
from msgspec import Struct

from kraken_history.errors import MalformedMessage, ServiceUnavailable
from kraken_history.records import ExternalIndicator, utc_from_unix_ns
from kraken_history.runtime.http_bodies import BodyTooLong, read_body

WHOLE_HISTORY = 0
"""Days of :func:`fetch_fear_greed`: all that the source has, since 2018-02-01."""

FEAR_GREED = "fear_greed"
BTC_DOMINANCE = "btc_dominance"

_TIMEOUT = aiohttp.ClientTimeout(total=30)
_LONGEST_ANSWER = 10_000_000  # bytes; the whole history of fear and greed has a thirtieth of that


class _FearGreedDay(Struct):
    value: str
    timestamp: str


class _FearGreed(Struct):
    data: list[_FearGreedDay]


class _Market(Struct):
    market_cap_percentage: dict[str, Decimal]
    updated_at: int


class _Global(Struct):
    data: _Market


def decode_fear_greed(body: bytes) -> list[ExternalIndicator]:
    """Decode an answer of ``/fng/``: one figure a day, 0 (fear) to 100 (greed).

    Raises:
        MalformedMessage: The body has another form, or a figure is outside of 0 to 100.
    """
    try:
        days = msgspec.json.decode(body, type=_FearGreed).data
        found = [(utc_from_unix_ns(int(day.timestamp) * 10**9), Decimal(day.value)) for day in days]
    except (msgspec.MsgspecError, ValueError, OverflowError, InvalidOperation, RecursionError) as error:
        raise MalformedMessage(f"alternative.me did not answer with fear and greed: {error}", body) from error
    return _checked([ExternalIndicator(at, FEAR_GREED, value, "alternative.me") for at, value in found], body)


def decode_btc_dominance(body: bytes) -> list[ExternalIndicator]:
    """Decode an answer of ``/api/v3/global``: bitcoin's share of the market's value, in percent.

    Raises:
        MalformedMessage: The body has another form, or a figure is outside of 0 to 100.
    """
    try:
        market = msgspec.json.decode(body, type=_Global).data
        at, value = utc_from_unix_ns(market.updated_at * 10**9), market.market_cap_percentage["btc"]
    except (msgspec.MsgspecError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"coingecko did not answer with bitcoin's dominance: {error}", body) from error
    return _checked([ExternalIndicator(at, BTC_DOMINANCE, value, "coingecko")], body)


def _checked(found: list[ExternalIndicator], body: bytes) -> list[ExternalIndicator]:
    for each in found:
        if not each.value.is_finite() or not 0 <= each.value <= 100:
            raise MalformedMessage(f"{each.source} gives {each.indicator_name} as {each.value}, not 0 to 100", body)
    return found


async def fetch_fear_greed(base_url: str = "https://api.alternative.me", *, days: int = 30) -> list[ExternalIndicator]:
    """The latest days, newest first; more than one, so that days without a worker are made up for.

    Args:
        days: Number of days, or :data:`WHOLE_HISTORY`.

    Raises:
        ServiceUnavailable: The source is unreachable, or answers with an error.
        MalformedMessage: It answers with something else.
    """
    return decode_fear_greed(await _get(f"{base_url.rstrip('/')}/fng/", {"limit": str(days), "format": "json"}))


async def fetch_btc_dominance(base_url: str = "https://api.coingecko.com") -> list[ExternalIndicator]:
    """The present figure; coingecko gives no other for free. Errors as :func:`fetch_fear_greed`."""
    return decode_btc_dominance(await _get(f"{base_url.rstrip('/')}/api/v3/global", {}))


async def _get(url: str, parameters: dict[str, str]) -> bytes:
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session,
            session.get(url, params=parameters) as response,
        ):
            if response.status != 200:
                raise ServiceUnavailable(f"{url} answers with {response.status} {response.reason}: try again later")
            return await read_body(response, _LONGEST_ANSWER)
    except BodyTooLong as error:
        raise MalformedMessage(f"{url}: {error}", error.beginning) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise ServiceUnavailable(f"no answer from {url} ({reason}): try again later") from error


async def store_indicators(pool: asyncpg.Pool, indicators: Sequence[ExternalIndicator]) -> int:
    """Store figures; return how many are new or changed. Storing a figure again changes nothing."""
    latest = {(each.timestamp, each.indicator_name): each for each in indicators}
    if not latest:
        return 0
    rows = [latest[key] for key in sorted(latest)]
    async with pool.acquire() as connection:
        moments = [each.timestamp for each in rows]
        await connection.execute("SELECT ensure_partitions('external_indicators', $1)", moments)
        stored = await connection.fetch(
            _STORE,
            moments,
            [each.indicator_name for each in rows],
            [each.value for each in rows],
            [each.source for each in rows],
        )
    return len(stored)


_STORE = """
    INSERT INTO external_indicators AS e (timestamp, indicator_name, value, source)
    SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::numeric[], $4::text[])
    ON CONFLICT (timestamp, indicator_name) DO UPDATE SET value = excluded.value, source = excluded.source
    WHERE (e.value, e.source) IS DISTINCT FROM (excluded.value, excluded.source)
    RETURNING 1
"""
