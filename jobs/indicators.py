"""The daily fetch of the enabled external indicators."""

from typing import Any

from arq import Retry

from jobs.context import WorkerContext
from kraken_history.errors import MalformedMessage, ServiceUnavailable
from kraken_history.indicators import BTC_DOMINANCE, FEAR_GREED, fetch_btc_dominance, fetch_fear_greed, store_indicators
from kraken_history.runtime import telemetry

_RETRY_AFTER_S = 600.0

_log = telemetry.get_logger("worker")


async def fetch_indicators(ctx: dict[str, Any]) -> int:
    """Fetch and store the enabled indicators; return how many values are new. If a source is away, retry later."""
    context: WorkerContext = ctx["context"]
    settings = context.settings
    stored, is_away = 0, False
    for name, is_enabled, fetch, url in (
        (FEAR_GREED, settings.fear_greed_enabled, fetch_fear_greed, settings.fear_greed_url),
        (BTC_DOMINANCE, settings.btc_dominance_enabled, fetch_btc_dominance, settings.btc_dominance_url),
    ):
        if not is_enabled:
            continue
        try:
            stored += await store_indicators(context.pool, await fetch(url))
        except ServiceUnavailable as error:
            _log.warning("indicator_postponed", indicator=name, error=str(error))
            is_away = True
        except MalformedMessage as error:
            _log.error("indicator_malformed", indicator=name, error=str(error))
    if is_away:
        raise Retry(defer=_RETRY_AFTER_S)
    return stored
