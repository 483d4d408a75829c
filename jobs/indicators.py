"""The daily fetch of the enabled external indicators, and that of their whole history when the worker starts."""

from functools import partial
from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from kraken_history.errors import MalformedMessage, ServiceUnavailable
from kraken_history.indicators import (
    BTC_DOMINANCE,
    FEAR_GREED,
    WHOLE_HISTORY,
    fetch_btc_dominance,
    fetch_fear_greed,
    store_indicators,
)
from kraken_history.runtime import telemetry

_DAYS = 30  # of fear and greed, once a day: so long may a worker be away
_RETRY_AFTER_S = 600.0

_log = telemetry.get_logger("worker")


async def fetch_indicators(ctx: dict[str, Any]) -> int:
    """Fetch and store the enabled indicators; return how many values are new. If a source is away, retry later."""
    stored, is_away = await _fetch(ctx["context"], _DAYS)
    if is_away:
        raise Retry(defer=_RETRY_AFTER_S)
    return stored


async def fetch_indicator_history(ctx: dict[str, Any]) -> int:
    """As :func:`fetch_indicators`, with all that the sources have; a source that is away is left to the next start."""
    stored, _ = await _fetch(ctx["context"], WHOLE_HISTORY)
    return stored


async def _fetch(context: WorkerContext, days: int) -> tuple[int, bool]:
    """Return how many values are new, and whether a source is away."""
    settings = context.settings
    stored, is_away = 0, False
    for name, is_enabled, fetch in (
        (FEAR_GREED, settings.fear_greed_enabled, partial(fetch_fear_greed, settings.fear_greed_url, days=days)),
        (BTC_DOMINANCE, settings.btc_dominance_enabled, partial(fetch_btc_dominance, settings.btc_dominance_url)),
    ):
        if not is_enabled:
            continue
        try:
            stored += await store_indicators(context.pool, await fetch())
        except ServiceUnavailable as error:
            _log.warning("indicator_postponed", indicator=name, error=str(error))
            is_away = True
        except MalformedMessage as error:
            _log.error("indicator_malformed", indicator=name, error=str(error))
    return stored, is_away
