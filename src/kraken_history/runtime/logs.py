"""Logs as events with fields: through structlog if it is configured, otherwise through Python's ``logging``.

structlog is loaded when logging is configured: it takes long to load, and a command that reads logs nothing.
"""

import logging
import sys
from collections.abc import MutableMapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import structlog

LONGEST_TEXT = 2_000
"""Characters of one field of a logged event; the rest is cut off."""


def _shortened(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long text: an error of a server may quote a whole entry of a stream, and one of Kraken a whole page."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            event[name] = f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
    return event


def configure_logging(level: str, *, as_json: bool | None) -> None:
    """Write one line per event to standard error: JSON for machines, coloured text for a terminal."""
    import structlog.tracebacks

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


def _configured_structlog() -> ModuleType | None:
    """structlog, if it is loaded and configured. It is not loaded to find that out."""
    structured = sys.modules.get("structlog")
    return structured if structured is not None and structured.is_configured() else None


class Logger:
    """Logs events with fields, as structlog is configured by a service, a command, or the program that imports us.

    If nobody has configured it, structlog would print to standard output. Then events go to the logger
    ``kraken_history`` of Python's ``logging`` instead, which is silent until the program gives it a handler.
    """

    def __init__(self, component: str) -> None:
        self._component = component
        self._structured: structlog.typing.FilteringBoundLogger | None = None
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
        structured = _configured_structlog()
        if structured is not None:
            self._structured = self._structured or structured.get_logger(component=self._component)
            self._structured.log(level, event, **fields)
        elif self._plain.isEnabledFor(level):
            self._plain.log(level, "%s %s", event, " ".join(f"{name}={value!r}" for name, value in fields.items()))


class _Forwarding(logging.Handler):
    """Passes events of the modules that a strategy imports too, which log without structlog, on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structured = _configured_structlog()
        if structured is not None:
            error = getattr(record, "error", None)
            fields = {} if error is None else {"error": error}
            component = record.name.removeprefix("kraken_history.")
            structured.get_logger(component=component).log(record.levelno, record.getMessage(), **fields)


logging.getLogger("kraken_history").addHandler(_Forwarding())


def get_logger(component: str) -> Logger:
    """A logger that adds the component to each event."""
    return Logger(component)
