"""Calls to Kraken's public REST API, spaced, retried, and decoded."""

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

import aiohttp
import msgspec

from kraken_history import telemetry
from kraken_history.errors import KrakenBusy, ServiceUnavailable
from kraken_history.kraken.rest import TradesPage, decode_asset_pairs, decode_result, decode_trades_page
from kraken_history.symbols import Pair

_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
_log = telemetry.get_logger("kraken-rest")


class Limiter(Protocol):
    """What the client asks before each call, and tells after it."""

    async def wait_for_turn(self, pair: str) -> None: ...
    async def note_refusal(self, pair: str) -> float: ...
    async def note_success(self, pair: str) -> None: ...


class KrakenRest:
    """A client of the public endpoints; ``async with`` opens and closes its connections.

    Args:
        attempts: How often a call that Kraken is too busy for is made before the error is passed on.
    """

    def __init__(self, base_url: str, limiter: Limiter, *, attempts: int = 5) -> None:
        self._base_url = base_url.rstrip("/")
        self._limiter = limiter
        self._attempts = attempts
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "KrakenRest":
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def fetch_trades_page(self, pair: Pair, since: int = 0) -> TradesPage:
        """One page of trades from ``since`` (nanoseconds, inclusive) on, at most 1000.

        Raises:
            KrakenBusy, ServiceUnavailable: Still refused, or unreachable, after all attempts.
            KrakenRefused: Kraken does not know the pair.
            MalformedMessage: The answer is no page of trades.
        """
        result = await self._get("Trades", pair.altname, {"pair": pair.altname, "since": str(since)})
        return decode_trades_page(result, pair.symbol, since=since)

    async def fetch_asset_pairs(self) -> list[Pair]:
        """All pairs that have a WebSocket name. Errors as :meth:`fetch_trades_page`."""
        return decode_asset_pairs(await self._get("AssetPairs", "AssetPairs", {}))

    async def _get(self, endpoint: str, limited_by: str, parameters: Mapping[str, str]) -> msgspec.Raw:
        for attempt in range(1, self._attempts + 1):
            await self._limiter.wait_for_turn(limited_by)
            try:
                result = await self._get_once(endpoint, parameters)
            except (KrakenBusy, ServiceUnavailable) as error:
                pause_s = await self._limiter.note_refusal(limited_by)
                _log.warning("rest_busy", endpoint=endpoint, error=str(error), attempt=attempt, pause_s=pause_s)
                if attempt == self._attempts:
                    raise
            else:
                await self._limiter.note_success(limited_by)
                return result
        raise AssertionError("a client makes at least one attempt")

    async def _get_once(self, endpoint: str, parameters: Mapping[str, str]) -> msgspec.Raw:
        if self._http is None:
            raise RuntimeError("use the client inside `async with`")
        url = f"{self._base_url}/0/public/{endpoint}"
        try:
            async with self._http.get(url, params=parameters) as response:
                return decode_result(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ServiceUnavailable(f"no answer from Kraken at {self._base_url} ({reason})") from error
