"""Calls to Kraken's public REST API, spaced, retried, and decoded."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Protocol

import aiohttp
import msgspec
from msgspec import Struct

from kraken_history.errors import KrakenBusy, KrakenRefused, ServiceUnavailable
from kraken_history.kraken.rest import (
    OhlcPage,
    Refusal,
    SystemStatus,
    TradesPage,
    decode_asset_pairs,
    decode_ohlc_page,
    decode_result,
    decode_system_status,
    decode_time,
    decode_trades_page,
    refusal_of,
)
from kraken_history.runtime import telemetry
from kraken_history.runtime.clocks import OtherClock
from kraken_history.runtime.http_bodies import BodyTooLong, read_body
from kraken_history.symbols import CURRENCY, TOKENIZED_ASSET, Pair
from kraken_history.urls import without_account

KRAKEN_URL = "https://api.kraken.com"

_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
LONGEST_ANSWER = 16 * 2**20
"""Bytes of an answer, unpacked. A page of 1,000 trades has about 70 kB."""

_WITHOUT_PAIR = "AssetPairs, SystemStatus and Time"  # they share one limit, under this name
_log = telemetry.get_logger("kraken-rest")


class Limiter(Protocol):
    """Decides when the client may call. The client reports to it how each call ended."""

    async def wait_for_turn(self, pair: str) -> None:
        """Return when the next call may go out; raise ``KrakenPaused`` if the wait would be too long."""

    async def note_refusal(self, pair: str, refusal: Refusal = ...) -> float:
        """Pause all calls for the pair; return the length of the pause in seconds."""

    async def note_success(self, pair: str) -> None:
        """Record that Kraken answered."""


class KrakenRest:
    """A client of the public endpoints; ``async with`` opens and closes its connections.

    Args:
        attempts: Number of times a call is made while Kraken is busy or unreachable, before the error is raised.

    Attributes:
        clock: Kraken's clock, from the header ``Date`` of its answers.
    """

    def __init__(self, base_url: str, limiter: Limiter, *, attempts: int = 5) -> None:
        self._base_url = base_url.rstrip("/")
        self._limiter = limiter
        self._attempts = attempts
        self.clock = OtherClock()
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
            KrakenBusy, ServiceUnavailable: Kraken is still busy or unreachable after all attempts.
            KrakenRefused: Kraken refuses the request, for example because it does not know the pair.
            MalformedMessage: The answer is not a page of trades.
        """
        parameters = {"pair": pair.altname, "since": str(since), **_class_of(pair)}
        result = await self._get("Trades", pair.altname, parameters)
        return decode_trades_page(result, pair.symbol, since=since)

    async def fetch_ohlc_page(self, pair: Pair, since: datetime, interval: int = 1) -> OhlcPage:
        """Candles that begin after ``since`` (not at it), and are among the latest 720 of their interval.

        Args:
            interval: In minutes, one of :data:`~kraken_history.kraken.websocket.OHLC_INTERVALS`.

        Errors as :meth:`fetch_trades_page`.
        """
        begin_s = max(int(since.timestamp()), 0)
        parameters = {"pair": pair.altname, "interval": str(interval), "since": str(begin_s), **_class_of(pair)}
        return decode_ohlc_page(await self._get("OHLC", pair.altname, parameters), pair.symbol, interval)

    async def fetch_asset_pairs(self) -> list[Pair]:
        """All pairs that have a WebSocket name, xStocks included. Errors as :meth:`fetch_trades_page`.

        Two calls, because AssetPairs lists one class of assets at a time.
        """
        pairs = decode_asset_pairs(await self._get("AssetPairs", _WITHOUT_PAIR, {}))
        try:
            result = await self._get("AssetPairs", _WITHOUT_PAIR, {"aclass_base": TOKENIZED_ASSET})
        except KrakenRefused as error:  # Kraken does not offer xStocks everywhere; the other pairs are still valid
            _log.warning("tokenized_pairs_not_listed", error=str(error))
            return pairs
        return pairs + decode_asset_pairs(result)

    async def fetch_system_status(self) -> SystemStatus:
        """The state of Kraken's matching engine. Errors as :meth:`fetch_trades_page`."""
        return decode_system_status(await self._get("SystemStatus", _WITHOUT_PAIR, {}))

    async def fetch_time(self) -> datetime:
        """Kraken's clock, to the second. Errors as :meth:`fetch_trades_page`."""
        return decode_time(await self._get("Time", _WITHOUT_PAIR, {}))

    async def _get(self, endpoint: str, limited_by: str, parameters: Mapping[str, str]) -> msgspec.Raw:
        for attempt in range(1, self._attempts + 1):
            await self._limiter.wait_for_turn(limited_by)
            answer = await self._get_once(endpoint, parameters)
            if not isinstance(answer, _Trouble):
                await self._limiter.note_success(limited_by)
                return answer
            pause_s = await self._limiter.note_refusal(limited_by, answer.refusal)
            _log.warning("rest_busy", endpoint=endpoint, error=str(answer.error), attempt=attempt, pause_s=pause_s)
            if attempt == self._attempts:
                raise answer.error
        raise AssertionError("a client makes at least one attempt")

    async def _get_once(self, endpoint: str, parameters: Mapping[str, str]) -> "msgspec.Raw | _Trouble":
        if self._http is None:
            raise RuntimeError("use the client inside `async with`")
        url = f"{self._base_url}/0/public/{endpoint}"
        asked_at_s = time.monotonic()
        try:
            async with self._http.get(url, params=parameters) as response:
                body = await read_body(response, LONGEST_ANSWER)
        except (aiohttp.ClientError, TimeoutError, OSError, BodyTooLong) as error:
            unavailable = ServiceUnavailable(
                f"no answer from Kraken at {without_account(self._base_url)} ({str(error) or type(error).__name__})"
            )
            unavailable.__cause__ = error
            return _Trouble(unavailable, Refusal())
        told = _time_of(response.headers)
        if told is not None:
            self.clock.note(told, asked_at_s=asked_at_s)
        try:
            return decode_result(response.status, body)
        except KrakenBusy as error:
            retry_after = response.headers.get("Retry-After")
            now = self.clock.now()
            return _Trouble(error, refusal_of(error.errors, status=response.status, retry_after=retry_after, now=now))


def _time_of(headers: Mapping[str, str]) -> datetime | None:
    """When an answer was sent: the time in ``Date``, plus the age of a cached answer; None if it does not say."""
    try:
        made = parsedate_to_datetime(headers.get("Date", ""))
        age = timedelta(
            seconds=int(headers.get("Age", 0)), milliseconds=500
        )  # whole seconds, so half of one on average
        return made.replace(tzinfo=made.tzinfo or UTC) + age
    except (ValueError, OverflowError):
        return None


def _class_of(pair: Pair) -> Mapping[str, str]:
    """The ``asset_class`` parameter. Without it Kraken answers ``EQuery:Unknown asset pair`` for an xStock.

    Source: Kraken's documentation of ``asset_class``; JKorf/Kraken.Net#146, nautechsystems/nautilus_trader#3455.
    """
    return {} if pair.asset_class == CURRENCY else {"asset_class": pair.asset_class}


class _Trouble(Struct, frozen=True):
    """A failed call that may succeed later, and its consequence for the limiter."""

    error: KrakenBusy | ServiceUnavailable
    refusal: Refusal
