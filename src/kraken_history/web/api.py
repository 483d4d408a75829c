"""The paths of the HTTP API, below ``/api/v1``: what the library reads, with its names of fields."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from kraken_history.errors import UsageError
from kraken_history.intervals import parse_interval, width_of
from kraken_history.provider import HistoricalDataProvider
from kraken_history.reading.kinds import KINDS
from kraken_history.web import models
from kraken_history.web.bodies import (
    ARROW,
    CANDLE_FIELDS,
    MADE_UP,
    TRADE_FIELDS,
    arrow_answer,
    csv_answer,
    json_answer,
    ohlcv_row,
    record_of,
)
from kraken_history.web.events import CandleHub
from kraken_history.web.pages import CandlePage, candle_page, coverage_page, trade_page
from kraken_history.web.parameters import (
    DEFAULT_ROWS,
    MOST_ROWS,
    AsOf,
    CandleGaps,
    End,
    Interval,
    Limit,
    Resolution,
    Start,
    Symbol,
    TradeGaps,
    Wanted,
    chosen_format,
    moment,
    span,
)
from kraken_history.web.problems import MEDIA_TYPE, Problem

MOST_ARROW_BUCKETS = 1_100_000
"""Longest range of an Arrow stream of candles: two years of minutes. It is made in memory."""

MOST_ARROW_DAYS = 7
"""Longest range of an Arrow stream of trades, in days."""

MOST_DAYS_OF_COVERAGE = 366
"""Longest range of one answer about coverage, in days: each change of kind is a span."""

_SETTLES_WITHIN = timedelta(minutes=5)

_PROBLEM = {"model": Problem, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is not valid", **_PROBLEM},
    401: {"description": "The token is missing", **_PROBLEM},
    404: {"description": "Nothing of this name is stored", **_PROBLEM},
    409: {"description": "Part of the history is missing, and gaps=raise", **_PROBLEM},
    503: {"description": "The database is unavailable, or the server too busy", **_PROBLEM},
}
_SAME: dict[int | str, dict[str, Any]] = {304: {"description": "As the client has it already"}}

router = APIRouter(prefix="/api/v1", responses={**_PROBLEMS, **_SAME})


def _provider(request: Request) -> HistoricalDataProvider:
    provider: HistoricalDataProvider = request.app.state.provider
    return provider


@router.get("/symbols", response_model=models.Symbols, tags=["history"])
async def list_symbols(request: Request) -> Response:
    """The stored symbols."""
    return json_answer(request, {"symbols": await _provider(request).get_symbols()})


@router.get("/status", response_model=models.Statuses, tags=["history"])
async def read_status(
    request: Request, symbol: Annotated[list[str] | None, Query(max_length=100, description="By default all")] = None
) -> Response:
    """Counts and times of the stored records, by symbol."""
    provider = _provider(request)
    names = [await provider.find_symbol(name) for name in symbol] if symbol else await provider.get_symbols()
    found = [await provider.get_sync_status(name) for name in dict.fromkeys(names)]
    return json_answer(request, {"symbols": [each for each in found if each is not None]})


_CANDLE_FORMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Candles. With format=ccxt, a list of rows of `fetch_ohlcv`",
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/Candles"},
                        {
                            "type": "array",
                            "items": {"type": "array", "items": {"type": "number"}, "minItems": 6, "maxItems": 6},
                        },
                    ]
                }
            },
            "text/csv": {"schema": {"type": "string"}},
            ARROW: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("/candles", response_model=models.Candles, responses=_CANDLE_FORMS, tags=["history"])
async def read_candles(
    request: Request,
    symbol: Symbol,
    interval: Interval = "1",
    start: Start = None,
    end: End = None,
    limit: Limit = DEFAULT_ROWS,
    gaps: CandleGaps = None,
    as_of: AsOf = None,
    wanted: Wanted = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Candles that open at or after `start` and are closed at `end`, oldest first.

    Without `start`, the newest `limit` candles, at `end` or now; the last may still be running.
    CSV has the whole range, however long it is; an Arrow stream has all of it too, up to two years of minutes.
    """
    provider, width = _provider(request), parse_interval(interval)
    name = await provider.find_symbol(symbol)
    format_ = chosen_format(wanted, accept)
    known_at = moment("as_of", as_of)
    if start is None:
        if known_at is not None or format_ in ("csv", "arrow"):
            raise UsageError("expected start and end with as_of, and for CSV and Arrow")
        newest = await provider.get_latest_candles(name, width, limit, end=moment("end", end), gaps=gaps or "ignore")
        return _candles_answer(request, name, width, CandlePage(newest, None), format_, is_final=False)
    low, high = span(start, end or "now")
    if known_at is not None:
        page = await candle_page(provider, name, width, (low, high), limit, gaps, as_of=known_at)
        return _candles_answer(request, name, width, page, format_, is_final=False)
    gaps = gaps or "raise"
    if format_ == "csv":
        fields = (*CANDLE_FIELDS, MADE_UP) if gaps in ("pad", "fill") else CANDLE_FIELDS
        rows = provider.replay_candles(name, width, low, high, 0, gaps=gaps)
        return await csv_answer(rows, fields, f"{name.replace('/', '-')}_{width}.csv")
    if format_ == "arrow":
        if (high - low) / width_of(width) > MOST_ARROW_BUCKETS:
            raise UsageError(f"expected a range of at most {MOST_ARROW_BUCKETS:,} candles: ask for it in parts")
        table = await provider.get_candles_arrow(name, width, low, high, gaps=gaps)
        return arrow_answer(request, table, is_final=False)
    page = await candle_page(provider, name, width, (low, high), limit, gaps)
    is_final = gaps == "raise" and _is_past(page.next or high) and all(c.source == "trades" for c in page.candles)
    return _candles_answer(request, name, width, page, format_, is_final=is_final)


def _is_past(end: datetime) -> bool:
    """True if a complete range that ends then does not change any more."""
    return end <= datetime.now(UTC) - _SETTLES_WITHIN


def _candles_answer(
    request: Request, symbol: str, interval: int, page: CandlePage, format_: models.Format, *, is_final: bool
) -> Response:
    if format_ == "ccxt":
        return json_answer(request, [ohlcv_row(candle) for candle in page.candles], is_final=is_final)
    padded = any(candle.is_made_up for candle in page.candles)
    fields = (*CANDLE_FIELDS, MADE_UP) if padded else CANDLE_FIELDS
    body = {
        "symbol": symbol,
        "interval_minutes": interval,
        "candles": [record_of(candle, fields) for candle in page.candles],
        "next": page.next,
    }
    return json_answer(request, body, is_final=is_final)


_TRADE_FORMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Trades",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            ARROW: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("/trades", response_model=models.Trades, responses=_TRADE_FORMS, tags=["history"])
async def read_trades(
    request: Request,
    symbol: Symbol,
    start: Start = None,
    end: End = None,
    limit: Limit = DEFAULT_ROWS,
    gaps: TradeGaps = "raise",
    wanted: Wanted = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Trades of `[start, end)` by time, and by id within one instant.

    If more trades than `limit` share the first instant of a page, the page holds all of that instant.
    """
    provider = _provider(request)
    low, high = span(start, end)
    name = await provider.find_symbol(symbol)
    format_ = chosen_format(wanted, accept)
    if format_ == "ccxt":
        raise UsageError("format: expected json, csv or arrow for trades, got ccxt")
    if format_ == "csv":
        rows = provider.replay_trades(name, low, high, 0, gaps=gaps)
        return await csv_answer(rows, TRADE_FIELDS, f"{name.replace('/', '-')}_trades.csv")
    if format_ == "arrow":
        if (high - low).total_seconds() > MOST_ARROW_DAYS * 86_400:
            raise UsageError(f"expected a range of at most {MOST_ARROW_DAYS} days: ask for it in parts")
        table = await provider.get_trades_arrow(name, low, high, gaps=gaps)
        return arrow_answer(request, table, is_final=False)
    page = await trade_page(provider, name, (low, high), limit, gaps)
    body = {"symbol": name, "trades": [record_of(trade, TRADE_FIELDS) for trade in page.trades], "next": page.next}
    return json_answer(request, body, is_final=gaps == "raise" and _is_past(page.next or high))


@router.get("/coverage", response_model=models.Coverage | models.CoverageByBuckets, tags=["history"])
async def read_coverage(
    request: Request,
    symbol: Symbol,
    start: Start = None,
    end: End = None,
    interval: Interval = "1",
    limit: Limit = MOST_ROWS,
    resolution: Resolution = None,
) -> Response:
    """Which part of `[start, end)` is proven, rests on the exchange's candles, is quiet, or is missing.

    With `resolution`, seconds of each kind by bucket: for a map of years.
    """
    low, high = span(start, end)
    if resolution is not None:
        return await _coverage_by_buckets(
            request, symbol, low, high, parse_interval(interval), parse_interval(resolution)
        )
    if (high - low).days > MOST_DAYS_OF_COVERAGE:
        raise UsageError(f"expected a range of at most {MOST_DAYS_OF_COVERAGE} days: ask for it in parts")
    coverage = await _provider(request).get_coverage(symbol, low, high, parse_interval(interval))
    spans, following = coverage_page(coverage, limit)
    lengths = {
        f"{kind}_s": sum((each.end - each.start).total_seconds() for each in spans if each.kind == kind)
        for kind in KINDS
    }
    body = {
        "symbol": coverage.symbol,
        "start": coverage.start,
        "end": following or coverage.end,
        **lengths,
        "spans": spans,
        "next": following,
    }
    return json_answer(request, body)


async def _coverage_by_buckets(
    request: Request, symbol: str, low: datetime, high: datetime, interval: int, resolution: int
) -> Response:
    width = width_of(resolution)
    if (high - low) / width > MOST_ROWS:
        raise UsageError(
            f"expected a range of at most {MOST_ROWS:,} buckets: ask for it in parts, or by a longer resolution"
        )
    found = await _provider(request).get_coverage(symbol, low, high, interval, resolution=width)
    buckets = [
        {
            "start": bucket.start,
            "end": bucket.end,
            **{f"{kind}_s": getattr(bucket, kind).total_seconds() for kind in KINDS},
        }
        for bucket in found.buckets
    ]
    body = {"symbol": found.symbol, "start": found.start, "end": found.end, "resolution_minutes": resolution}
    return json_answer(request, {**body, "buckets": buckets})


@router.get("/runs", response_model=models.Runs, tags=["backtests"])
async def list_runs(
    request: Request,
    strategy: Annotated[str | None, Query(max_length=200, description="Of one strategy; by default of all")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> Response:
    """Saved runs of backtests, newest first, without their trades and equity curves."""
    found = await _provider(request).list_runs(strategy, limit=limit)
    return json_answer(request, {"runs": [msgspec.to_builtins(run) for run in found]})


@router.get("/runs/{id}", response_model=models.Run, tags=["backtests"])
async def read_run(request: Request, id_: Annotated[UUID, Path(alias="id")]) -> Response:
    """One saved run, whole."""
    return json_answer(request, await _provider(request).load_run(id_))


@router.get(
    "/events/candles",
    tags=["live"],
    response_class=StreamingResponse,
    responses={200: {"description": "Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def follow_candles(
    request: Request,
    symbol: Symbol,
    interval: Interval = "1",
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """Closed candles as they are stored, as server-sent events.

    The `id` of an event is the end of its candle. A client that sends it as `Last-Event-ID`, as browsers do when they
    connect again, first gets the candles that it missed.
    """
    hub: CandleHub = request.app.state.hub
    width = parse_interval(interval)
    name = await _provider(request).find_symbol(symbol)
    since = moment("Last-Event-ID", last_event_id)
    hub.check_room((name, width))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(hub.events(name, width, since), 200, headers, "text/event-stream")
