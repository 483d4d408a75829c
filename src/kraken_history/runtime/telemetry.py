"""Logs as events with fields, metrics for Prometheus, and the sign of life that each service leaves in Redis."""

import logging
import socket
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
import structlog.tracebacks
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from kraken_history.errors import UsageError

LONGEST_TEXT = 2_000
"""Characters of one field of a logged event; the rest is cut off."""

# Each name has one meaning in every process. prometheus_client appends ``_total`` to the names of counters, which each
# process counts by itself from its start. Gauges are read from the database, by the workers alone: all show the same;
# except the difference of clocks, which each process measures.
FRAMES = Counter("kraken_frames", "WebSocket frames received, by kind", ["kind"])
MALFORMED = Counter(
    "kraken_malformed_messages", "WebSocket frames and stream entries that could not be decoded", ["where"]
)
RECONNECTS = Counter("kraken_reconnects", "WebSocket connections opened after the first one")
SUBSCRIPTIONS_REFUSED = Counter(
    "kraken_subscriptions_refused", "Subscriptions that Kraken refused, by symbol", ["symbol"]
)
STATUS_MESSAGES = Counter(
    "kraken_status_messages", "Status messages received from Kraken, by state of the matching engine", ["system"]
)
PUBLISHED = Counter("kraken_published_records", "Trades and candles published to a stream", ["kind"])
DISCARDED = Counter(
    "kraken_discarded_records",
    "Trades and candles that the producer discarded because its buffer was full or Redis unavailable",
    ["kind"],
)
STORED = Counter(
    "kraken_stored_trades", "Trades in written batches: new to the database, or known already", ["outcome"]
)
BATCHES = Counter("kraken_batches", "Batches written, by the limit that was reached", ["reason"])
DEAD_LETTERS = Counter(
    "kraken_dead_letters", "Messages put aside; kept is false if there was no room to keep them", ["kept"]
)
REFUSED = Counter(
    "kraken_refused_trades", "Trades with a value that is not valid, which are not stored, by symbol", ["symbol"]
)
REUSED = Counter(
    "kraken_reused_ids", "Trades whose id belongs to another stored trade, which is kept, by symbol", ["symbol"]
)
WAITING = Counter(
    "kraken_waiting_trades",
    "Trades whose ids leap absurdly far, which wait until Kraken's REST API confirms them, by symbol",
    ["symbol"],
)
WRITE_SECONDS = Histogram("kraken_write_seconds", "Seconds to write and commit one batch")
FETCHED_PAGES = Counter(
    "kraken_fetched_pages", "REST pages fetched and stored, by the work that needed them", ["symbol", "work"]
)
FETCHED_TRADES = Counter(
    "kraken_fetched_trades", "Trades fetched over REST that were new to the database", ["symbol", "work"]
)
FETCH_FAILURES = Counter(
    "kraken_fetch_failures",
    "REST work that failed: outcome later is tried again, outcome failed is not",
    ["symbol", "work", "outcome"],
)
MISSING_IDS = Gauge(
    "kraken_missing_ids",
    "Trade ids between the lowest and the highest stored that are neither stored nor proven absent",
    ["symbol"],
)
UNCOVERED_SECONDS = Gauge(
    "kraken_uncovered_seconds", "Seconds of the wanted history that are not covered, ignoring missing ids", ["symbol"]
)
BACKFILL_STATE = Gauge("kraken_backfill_state", "1 for the state that the backfill is in, else 0", ["symbol", "state"])
BACKFILL_REACHED = Gauge(
    "kraken_backfill_reached_timestamp_seconds", "Unix time up to which a backfill has fetched", ["symbol"]
)
BACKFILL_REMAINING = Gauge(
    "kraken_backfill_remaining_seconds", "Seconds between a backfill's position and its target end", ["symbol"]
)
CLOCK_AHEAD = Gauge(
    "kraken_clock_ahead_seconds", "Seconds by which the clock of this machine is ahead of that of a server", ["server"]
)


def _shortened(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long text: an error of a server may quote a whole entry of a stream, and one of Kraken a whole page."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            event[name] = f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
    return event


def configure_logging(level: str, *, as_json: bool | None) -> None:
    """Write one line per event to standard error: JSON for machines, coloured text for a terminal."""
    # While the database is unavailable its pool logs a traceback every few seconds. Our own events report the outage.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    # A traceback shows no local variables: one of them may be a URL with its password.
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if (as_json if as_json is not None else not sys.stderr.isatty())
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _shortened,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
            if isinstance(renderer, structlog.processors.JSONRenderer)
            else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class Logger:
    """Logs events with fields, as structlog is configured by a service, a command, or the program that imports us.

    If nobody has configured it, structlog would print to standard output. Then events go to the logger
    ``kraken_history`` of Python's ``logging`` instead, which is silent until the program gives it a handler.
    """

    def __init__(self, component: str) -> None:
        self._component = component
        self._structured: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=component)
        self._plain = logging.getLogger(f"kraken_history.{component}")

    def debug(self, event: str, **fields: object) -> None:
        """Log an event that only developers need."""
        self.log(logging.DEBUG, event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """Log an event of normal operation."""
        self.log(logging.INFO, event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log an event that may pass by itself."""
        self.log(logging.WARNING, event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Log an event that a person should look at."""
        self.log(logging.ERROR, event, **fields)

    def log(self, level: int, event: str, **fields: object) -> None:
        """Log an event at a level of :mod:`logging`."""
        if structlog.is_configured():
            self._structured.log(level, event, **fields)
        elif self._plain.isEnabledFor(level):
            self._plain.log(level, "%s %s", event, " ".join(f"{name}={value!r}" for name, value in fields.items()))


class _Forwarding(logging.Handler):
    """Passes events of the modules that a strategy imports too, which log without structlog, on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        if structlog.is_configured():
            error = getattr(record, "error", None)
            fields = {} if error is None else {"error": error}
            component = record.name.removeprefix("kraken_history.")
            structlog.get_logger(component=component).log(record.levelno, record.getMessage(), **fields)


logging.getLogger("kraken_history").addHandler(_Forwarding())


def get_logger(component: str) -> Logger:
    """A logger that adds the component to each event."""
    return Logger(component)


def serve_metrics(port: int | None, host: str = "127.0.0.1") -> None:
    """Serve Prometheus metrics on this port, if one is set.

    Args:
        host: Name or address of the interface to listen on. Every client that reaches it may read the metrics.

    Raises:
        UsageError: The server cannot listen there, for example because the port is in use.
    """
    if port is None:
        return
    try:
        start_http_server(port, host)
    except socket.gaierror as error:
        raise UsageError(
            f"METRICS_HOST: expected a name or address of this machine, got {host!r} ({error.strerror})"
        ) from error
    except OSError as error:
        raise UsageError(
            f"cannot listen on METRICS_PORT {port} of METRICS_HOST {host} ({error.strerror}): choose another port or"
            " another address"
        ) from error
