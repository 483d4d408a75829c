"""Logs as events with fields, metrics for Prometheus, and the sign of life that each service leaves in Redis."""

import logging
import sys

import structlog
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from kraken_history.errors import UsageError

FRAMES = Counter("kraken_frames", "Frames from the WebSocket", ["kind"])
MALFORMED = Counter("kraken_malformed", "Frames and entries that could not be decoded", ["where"])
RECONNECTS = Counter("kraken_reconnects", "Connections to the WebSocket after the first")
SUBSCRIPTIONS_REFUSED = Counter("kraken_subscriptions_refused", "Symbols that Kraken refused", ["symbol"])
STATUS_CHANGES = Counter("kraken_status", "Messages about the matching engine's state", ["system"])
PUBLISHED = Counter("kraken_published_records", "Trades and candles published into a stream", ["kind"])
LET_GO = Counter("kraken_let_go_records", "Trades and candles dropped at a bound, for the ledger to heal", ["kind"])
STORED = Counter("kraken_stored_trades", "Trades that a batch brought", ["outcome"])
BATCHES = Counter("kraken_batches", "Batches written, by what made them due", ["reason"])
DEAD_LETTERS = Counter("kraken_dead_letters", "Entries put aside", ["kept"])
HOLES = Gauge("kraken_holes", "Trade ids missing inside the ledger", ["symbol"])
FETCHED_PAGES = Counter(
    "kraken_fetched_pages", "Answers of REST that were stored: of a backfill, a heal, a gap, or its candles",
    ["symbol", "work"],
)  # fmt: skip
FETCHED_TRADES = Counter("kraken_fetched_trades", "Trades new to the database that REST brought", ["symbol", "work"])
FETCH_FAILURES = Counter(
    "kraken_fetch_failures", "Work with REST that is to be done later, or has failed", ["symbol", "work", "outcome"]
)
BACKFILL_STATE = Gauge("kraken_backfill_state", "1 for the state that a backfill is in", ["symbol", "state"])
BACKFILL_REACHED = Gauge("kraken_backfill_reached_seconds", "Unix time that a backfill has come to", ["symbol"])
BACKFILL_REMAINING = Gauge("kraken_backfill_remaining_seconds", "Time from there to its end", ["symbol"])
UNCOVERED_SECONDS = Gauge("kraken_uncovered_seconds", "Wanted time that was not asked for yet", ["symbol"])
WRITE_SECONDS = Histogram("kraken_write_seconds", "Time to commit one batch")


def configure_logging(level: str, *, as_json: bool | None) -> None:
    """One line an event on standard error: JSON for machines, coloured text for a terminal."""
    # While the database is away its pool logs a traceback every few seconds; an outage is told by our own events.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if (as_json if as_json is not None else not sys.stderr.isatty())
        else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks
            if isinstance(renderer, structlog.processors.JSONRenderer)
            else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger(component: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose events name the component."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


def serve_metrics(port: int | None) -> None:
    """Serve Prometheus metrics on this port, if one is set.

    Raises:
        UsageError: The port is in use.
    """
    if port is None:
        return
    try:
        start_http_server(port)
    except OSError as error:
        raise UsageError(f"METRICS_PORT {port} cannot be used ({error.strerror}): choose another") from error
