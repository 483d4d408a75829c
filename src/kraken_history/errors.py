"""Errors, named after what a caller can do about them."""

from collections.abc import Sequence
from datetime import datetime

from kraken_history.records import TimeRange


class HistoryError(Exception):
    """Base of every error that this project raises on purpose."""


class MalformedMessage(HistoryError):
    """Bytes that are not what their sender promised; nothing of them was used."""

    def __init__(self, reason: str, payload: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.payload = payload


class UsageError(HistoryError):
    """Input that can be put right by whoever gave it; the message says how."""


class UnknownSymbol(UsageError):
    """A name that means no pair, or more than one; the message says where it was looked up.

    Attributes:
        symbol: The name as it was given.
        known: The symbols to choose from, where these are known.
    """

    def __init__(self, symbol: str, message: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.symbol, self.known = symbol, tuple(known)

    @classmethod
    def not_a_name(cls, given: str) -> "UnknownSymbol":
        """The text cannot be a name of a pair; nobody was asked."""
        return cls(given, f"expected BASE/QUOTE, such as BTC/USDT, got {given!r}")

    @classmethod
    def not_listed(cls, name: str) -> "UnknownSymbol":
        """Kraken's AssetPairs was asked for all pairs, and no pair has this name."""
        return cls(name, f"unknown symbol {name!r}: Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT")

    @classmethod
    def not_stored(cls, name: str, stored: Sequence[str]) -> "UnknownSymbol":
        """The database was asked, and no symbol that it holds has this name."""
        shown, others = ", ".join(stored[:_MOST_SHOWN]), len(stored) - _MOST_SHOWN
        more = f" and {others} more" if others > 0 else ""
        hint = f"expected one of {shown}{more}" if stored else "it holds nothing yet"
        return cls(name, f"the database holds nothing of {name!r}: {hint}", stored)

    @classmethod
    def ambiguous(cls, name: str, candidates: Sequence[str]) -> "UnknownSymbol":
        """The letters of several symbols fit the name, and their case does not tell which one is meant."""
        return cls(name, f"{name!r} may mean {' or '.join(candidates)}: write the one that is meant", candidates)


_MOST_SHOWN = 20


class UnknownInterval(UsageError):
    """An interval of which there can be no candles."""

    def __init__(self, interval: object, longest: int) -> None:
        super().__init__(f"an interval is a whole number of minutes from 1 to {longest}, not {interval!r}")
        self.interval = interval


class InvalidTime(UsageError):
    """A time without a zone, or what is no time."""

    def __init__(self, value: object) -> None:
        super().__init__(f"{value!r} is no time with a zone: write for example datetime(2026, 1, 1, tzinfo=UTC)")
        self.value = value


class InvalidRange(UsageError):
    """A range of time that holds nothing, because it does not start before it ends."""

    def __init__(self, start: datetime, end: datetime) -> None:
        super().__init__(f"the range is empty or reversed: it starts at {start} and ends before {end}")
        self.start, self.end = start, end


class InvalidNumber(UsageError):
    """A count, limit or speed that is out of its bounds."""

    def __init__(self, name: str, value: object, bounds: str) -> None:
        super().__init__(f"{name} must be {bounds}, not {value!r}")
        self.name, self.value = name, value


class InvalidChoice(UsageError):
    """A word that is not one of those to choose from."""

    def __init__(self, name: str, value: object, choices: Sequence[str]) -> None:
        super().__init__(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        self.name, self.value = name, value


class MissingExtra(UsageError):
    """A feature whose packages are not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run pip install '.[{extra}]' in the folder of kraken-history")
        self.package, self.extra = package, extra


class ProviderClosed(HistoryError):
    """A provider that was not opened yet, or was closed."""

    def __init__(self) -> None:
        super().__init__("the provider is not open: use it inside `async with`, or between connect() and close()")


class CoverageError(HistoryError):
    """Part of the requested range is not stored.

    Attributes:
        symbol: Of what.
        gaps: What is missing, oldest first.
    """

    def __init__(self, symbol: str, gaps: Sequence[TimeRange]) -> None:
        start, end = gaps[0].start, gaps[0].end
        super().__init__(
            f"{symbol}: {len(gaps)} gap(s), the first from {start:%Y-%m-%d %H:%M}Z to {end:%Y-%m-%d %H:%M}Z:"
            " run `kraken-history fill-gaps`, or read with gaps='ignore'"
        )
        self.symbol, self.gaps = symbol, tuple(gaps)


class ServiceUnavailable(HistoryError):
    """A database, a Redis or Kraken that cannot be reached just now; trying again may help."""


class SchemaMismatch(HistoryError):
    """The database's schema is older or newer than this code."""


class KrakenError(HistoryError):
    """Kraken answered with an error.

    Attributes:
        errors: Kraken's own strings, ``E<category>:<text>``.
    """

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("Kraken answered: " + "; ".join(errors))
        self.errors = tuple(errors)


class KrakenBusy(KrakenError):
    """Kraken throttles, is down for a moment, or did not answer: the same request may pass later."""


class KrakenRefused(KrakenError):
    """Kraken will not answer this request as it is, for example because it does not know the pair."""
