"""Metrics for Prometheus, and the loggers of the services."""

import socket

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from kraken_history.errors import UsageError
from kraken_history.runtime.logs import configure_logging as configure_logging
from kraken_history.runtime.logs import get_logger as get_logger

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
