"""Errors, named after what a caller can do about them."""

from collections.abc import Sequence


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
    """A symbol that Kraken does not list, or that this database does not hold."""

    def __init__(self, symbol: str, known: Sequence[str] = ()) -> None:
        hint = (
            f"; known are {', '.join(known)}"
            if known
            else ": Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT"
        )
        super().__init__(f"unknown symbol {symbol!r}{hint}")
        self.symbol = symbol


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
