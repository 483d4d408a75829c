"""Errors, named after what a caller can do about them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from kraken_history.records import TimeRange
from kraken_history.remedies import duration_text, fill_command, moment_text

_LONGEST_QUOTE = 200  # characters


def quoted(value: object) -> str:
    """The value as Python writes it, cut if it is long: a message is one line, whatever somebody passed."""
    text = repr(value)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}… ({len(text)} characters)"


class HistoryError(Exception):
    """Base of every error that this project raises on purpose."""


class MalformedMessage(HistoryError):
    """Bytes that do not have the documented form. Nothing of them was used."""

    def __init__(self, reason: str, payload: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.payload = payload


class UsageError(HistoryError):
    """Invalid input. The message says what was expected, and the remedy."""


class UnknownSymbol(UsageError):
    """A name of no pair, or of several pairs. The message says who was asked.

    Attributes:
        symbol: The name as it was given.
        known: The symbols to choose from, where these are known.
    """

    def __init__(self, symbol: str, message: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.symbol, self.known = symbol, tuple(known)

    @classmethod
    def not_a_name(cls, given: str) -> "UnknownSymbol":
        """The text cannot be the name of a pair. Neither Kraken nor the database was asked."""
        return cls(given, f"expected BASE/QUOTE, such as BTC/USDT, got {quoted(given)}")

    @classmethod
    def not_listed(cls, name: str) -> "UnknownSymbol":
        """Kraken's AssetPairs was asked for all pairs, and no pair has this name."""
        return cls(name, f"unknown symbol {quoted(name)}: Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT")

    @classmethod
    def not_stored(cls, name: str, stored: Sequence[str]) -> "UnknownSymbol":
        """The database was asked, and no symbol that it holds has this name."""
        shown, others = ", ".join(stored[:_MOST_SHOWN]), len(stored) - _MOST_SHOWN
        more = f" and {others} more" if others > 0 else ""
        hint = f"expected one of {shown}{more}" if stored else "it holds nothing yet"
        return cls(name, f"the database holds nothing of {quoted(name)}: {hint}", stored)

    @classmethod
    def ambiguous(cls, name: str, candidates: Sequence[str]) -> "UnknownSymbol":
        """The letters of several symbols fit the name, and their case does not tell which one is meant."""
        return cls(name, f"{quoted(name)} may mean {' or '.join(candidates)}: write the one that is meant", candidates)


_MOST_SHOWN = 20


class UnknownIndicator(UsageError):
    """A name of no stored external indicator.

    Attributes:
        name: The name as it was given.
        known: The stored indicators.
    """

    def __init__(self, name: object, known: Sequence[str]) -> None:
        hint = f"expected one of {', '.join(known)}" if known else "it holds none"
        super().__init__(
            f"the database holds no indicator {quoted(name)}: {hint}; `kraken-history indicators fetch` fetches them"
        )
        self.name, self.known = name, tuple(known)


class UnknownInterval(UsageError):
    """An interval for which candles cannot be made."""

    def __init__(self, interval: object, longest: int) -> None:
        expected = f"expected a whole number of minutes from 1 to {longest}"
        if isinstance(interval, str):
            expected += ", or an interval such as 15m, 1h, 4h, 1d or 1w"
        super().__init__(f"interval: {expected}, got {quoted(interval)}")
        self.interval = interval


class InvalidTime(UsageError):
    """A value that is not a timezone-aware datetime."""

    def __init__(self, value: object) -> None:
        super().__init__(
            f"expected a timezone-aware datetime such as datetime(2026, 1, 1, tzinfo=UTC), got {quoted(value)}"
        )
        self.value = value


class InvalidRange(UsageError):
    """A time range that is empty, because it does not start before it ends."""

    def __init__(self, start: datetime, end: datetime) -> None:
        super().__init__(f"start ({start}) must be before end ({end})")
        self.start, self.end = start, end


class InvalidNumber(UsageError):
    """A count, limit or speed that is out of its bounds."""

    def __init__(self, name: str, value: object, bounds: str) -> None:
        super().__init__(f"{name}: expected {bounds}, got {quoted(value)}")
        self.name, self.value = name, value


class InvalidChoice(UsageError):
    """A word that is not one of those to choose from."""

    def __init__(self, name: str, value: object, choices: Sequence[str]) -> None:
        super().__init__(f"{name}: expected one of {', '.join(choices)}, got {quoted(value)}")
        self.name, self.value = name, value


class MissingExtra(UsageError):
    """A feature whose packages are not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run pip install '.[{extra}]' in the folder of kraken-history")
        self.package, self.extra = package, extra


class MissingPackage(UsageError):
    """A package of others that an adapter needs, and that is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is not installed: run pip install {package}")
        self.package = package


class ProviderClosed(HistoryError):
    """The provider is not open: it was not opened yet, or it was closed."""

    def __init__(self) -> None:
        super().__init__("the provider is not open: use it inside `async with`, or between connect() and close()")


class CoverageError(HistoryError):
    """Part of the requested range is missing. The message names the command that fetches it.

    Attributes:
        symbol: The symbol of the read; of a read of several, the first of which something is missing.
        gaps: The missing time ranges of that symbol, oldest first.
        dropped: Those of them that retention has dropped, which stay missing.
        is_open: True if the last of them reaches the present: nothing is known since its start.
        by_symbol: The missing time ranges of each symbol that lacks something.
    """

    def __init__(
        self, symbol: str, gaps: Sequence[TimeRange], *, dropped: Sequence[TimeRange] = (), is_open: bool = False
    ) -> None:
        self.symbol, self.gaps, self.dropped, self.is_open = symbol, tuple(gaps), tuple(dropped), is_open
        self.by_symbol: dict[str, tuple[TimeRange, ...]] = {symbol: self.gaps}
        self._all: tuple[CoverageError, ...] = (self,)
        super().__init__(self.message())

    @classmethod
    def of_all(cls, errors: Sequence["CoverageError"]) -> "CoverageError":
        """One error for several symbols, at least one; its message names each of them."""
        first = errors[0]
        error = cls(first.symbol, first.gaps, dropped=first.dropped, is_open=first.is_open)
        error.by_symbol = {each.symbol: each.gaps for each in errors}
        error._all = tuple(errors)
        error.args = (error.message(),)
        return error

    @property
    def duration(self) -> timedelta:
        """How much of the time of :attr:`symbol` is missing."""
        return sum((gap.duration for gap in self.gaps), timedelta())

    def message(self, ignore: str = "read with gaps='ignore'") -> str:
        """What is missing and what to do, in one line.

        Args:
            ignore: How to read nevertheless, in the words of the caller: an argument of a read, or an option.
        """
        return "; ".join(f"{each._finding()}: {each._remedy(ignore)}" for each in self._all)

    def _finding(self) -> str:
        first, total = self.gaps[0], duration_text(self.duration)
        where = f"from {moment_text(first.start)} to {moment_text(first.end)}"
        if len(self.gaps) == 1:
            return f"{self.symbol}: {total} of the range is missing, {where}"
        return f"{self.symbol}: {total} of the range is missing in {len(self.gaps)} gaps, the first {where}"

    def _remedy(self, ignore: str) -> str:
        fetchable = [gap for gap in self.gaps if gap not in self.dropped]
        if not fetchable:
            return f"retention has dropped it; {ignore} to go on without it"
        command = f"`{fill_command(self.symbol, fetchable[0].start, fetchable[-1].end)}`"
        lost = f"; retention has dropped {len(self.dropped)} of the gaps" if self.dropped else ""
        if self.is_open:
            return f"wait until the live feed has caught up, run {command}, or {ignore}{lost}"
        return f"run {command}, or {ignore}{lost}"


class ServiceUnavailable(HistoryError):
    """A service is unreachable, or could not do its work just now. A later attempt may succeed."""


class SchemaMismatch(HistoryError):
    """The database's schema is older or newer than this code."""


class KrakenError(HistoryError):
    """A request to Kraken failed. The message begins with "Kraken answered" only if Kraken gave the reason.

    Attributes:
        errors: The error strings in Kraken's answer, ``E<category>:<text>``. Empty if Kraken sent none, and the
            message states a finding of this library.
    """

    def __init__(self, errors: Sequence[str], message: str | None = None) -> None:
        super().__init__("Kraken answered: " + "; ".join(errors) if message is None else message)
        self.errors = tuple(errors)


class KrakenBusy(KrakenError):
    """Kraken throttles or is temporarily unavailable: the same request may succeed later."""


class KrakenRefused(KrakenError):
    """Kraken rejects this request, for example because it does not list the pair. Sending it again does not help."""


class KrakenHttpError(KrakenBusy):
    """The HTTP response contains no result and no error string of Kraken's, as from a proxy in front of it.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, *, is_json: bool) -> None:
        got = (
            f"HTTP {status} without an error in its JSON" if is_json else f"HTTP {status} with a body that is not JSON"
        )
        super().__init__(
            (),
            f"expected an answer from Kraken's API, got {got}: try again later; if this lasts, check KRAKEN_REST_URL",
        )
        self.status = status


class KrakenPaused(KrakenBusy):
    """The rate limiter holds back calls to Kraken for longer than a call waits; none was sent.

    Attributes:
        pair: The calls held back, by Kraken's name of their pair, or by the client's name for those without one.
        wait_s: Seconds until the next of them may go out.
    """

    def __init__(self, pair: str, wait_s: float) -> None:
        super().__init__((), f"Kraken asked for a pause: no calls for {pair} for another {wait_s:.0f} s")
        self.pair, self.wait_s = pair, wait_s


class MisleadingPage(KrakenError):
    """A page of trades contradicts the request or itself, so nothing can be concluded from it.

    Attributes:
        symbol: The symbol that was asked for.
        since: The time that was asked for, in nanoseconds.
        finding: The contradiction.
    """

    def __init__(self, symbol: str, since: int, finding: str) -> None:
        super().__init__((), f"a page of trades of {symbol} contradicts the request since={since}: {finding}")
        self.symbol, self.since, self.finding = symbol, since, finding


class IncompletePage(MisleadingPage):
    """A page of trades lacks a trade that is known, twice in a row. A later request may return it."""

    def __init__(self, symbol: str, since: int) -> None:
        finding = "it lacks a trade that is known there"
        KrakenError.__init__(self, (), f"a page of trades of {symbol} from since={since} proves nothing: {finding}")
        self.symbol, self.since, self.finding = symbol, since, finding


# A KrakenError, although the reason may be an operator: callers of backfill_symbol have always caught that.
class BackfillStopped(KrakenError):
    """A backfill ended without reaching its target.

    Attributes:
        symbol: The symbol of the backfill.
        state: The state that it was left in.
        reason: The recorded reason; empty if there is none.
    """

    def __init__(self, symbol: str, state: Literal["paused", "cancelled", "failed"], reason: str = "") -> None:
        cause = f" ({reason})" if reason else ""
        super().__init__((), f"the backfill of {symbol} {_STOPPED[state]}{cause}: request it again to {_AGAIN[state]}")
        self.symbol, self.state, self.reason = symbol, state, reason


_STOPPED = {"paused": "is paused", "cancelled": "was cancelled", "failed": "has failed"}
_AGAIN = {"paused": "continue", "cancelled": "start anew", "failed": "continue"}
