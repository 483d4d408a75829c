"""Shared by the examples: command-line arguments, results, and errors in one line."""

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import NoReturn
from urllib.parse import urlsplit

import asyncpg

from kraken_history.cli.instants import MOST_DAYS, parse_instant
from kraken_history.errors import CoverageError, HistoryError, UnknownInterval, UnknownSymbol, UsageError
from kraken_history.intervals import parse_interval
from kraken_history.kraken.pairs import checked_name
from kraken_history.remedies import duration_text, moment_text
from strategy import Rules, Trader, result_of

_LONGEST_S = 10 * 366 * 86_400


class Parser(argparse.ArgumentParser):
    """Parses the database and the rules of the strategy; reports an error in one line."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description)
        rules = Rules()
        self.add_argument("--database-url", default=os.environ.get("DATABASE_URL"), help="default: DATABASE_URL")
        self.add_argument(
            "--interval", type=minutes, default=1, help="of the candles, in minutes or such as 1h or 1d (%(default)s)"
        )
        self.add_argument("--fast", type=int, default=rules.fast, help="closes in the fast average (%(default)s)")
        self.add_argument("--slow", type=int, default=rules.slow, help="closes in the slow average (%(default)s)")
        self.add_argument("--fee", type=decimal, default=rules.fee, help="part of the price of each fill (%(default)s)")

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def run(parser: Parser, main: Callable[[argparse.Namespace, Rules], Awaitable[None]], words: Sequence[str]) -> int:
    """Run an example; 0 if all went well, 1 or 2 and one line if not."""
    arguments = parser.parse_args(words)
    if not arguments.database_url:
        parser.error("no database: set DATABASE_URL or give --database-url postgresql://user:password@host:5432/name")
    try:
        rules = Rules(arguments.fast, arguments.slow, arguments.fee)
    except ValueError as error:
        parser.error(str(error))

    async def all_of_it() -> None:
        await main(arguments, rules)

    try:
        asyncio.run(all_of_it())
    except KeyboardInterrupt:
        return 130
    except UsageError as error:
        parser.error(str(error))
    except CoverageError as error:
        sys.stderr.write(f"{parser.prog}: {error.message('add --gaps ignore')}\n")
        return 1
    except (HistoryError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"{parser.prog}: {' '.join(str(error).split())}\n")
        return 1
    return 0


def decimal(text: str) -> Decimal:
    """A number that was typed, to the last digit."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return number


def count(text: str) -> int:
    """A number of things."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 99999, got {text!r}")
    return int(text)


def days(text: str) -> int:
    """A number of days."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST_DAYS):
        raise argparse.ArgumentTypeError(f"expected a whole number of days from 1 to {MOST_DAYS}, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """How long."""
    try:
        given = float(text)
    except ValueError:
        given = math.nan
    if not 0 <= given <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 0 to {_LONGEST_S}, got {text!r}")
    return given


def minutes(text: str) -> int:
    """The interval of candles."""
    try:
        return parse_interval(text)
    except UnknownInterval as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def symbol_name(text: str) -> str:
    """Any name of a symbol."""
    try:
        return checked_name(text)
    except UnknownSymbol as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def web_address(text: str) -> str:
    """Of a server that speaks HTTP."""
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"expected an address like https://api.kraken.com, got {text!r}")
    return text


def moment(text: str) -> datetime:
    """A time that was typed; without a zone it is in UTC."""
    try:
        return parse_instant(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a time like 2026-01-31, 2026-01-31T12:00Z, today or yesterday, got {text!r}"
        ) from None


def say(line: str) -> None:
    """A line on the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def warn_of(error: CoverageError) -> None:
    """A line about missing time, on standard error."""
    first = error.gaps[0]
    sys.stderr.write(
        f"warning: {duration_text(error.duration)} of {error.symbol} is missing, the first from"
        f" {moment_text(first.start)} to {moment_text(first.end)}: the result is not that of a complete history\n"
    )


def say_result(trader: Trader) -> None:
    """What a trader came to."""
    result = result_of(trader)
    say(
        f"{trader.symbol}: {result.candles} candles, {result.round_trips} round trips, {result.won} of them won,"
        f" profit {signed(result.profit)} after fees of {number(result.fees)},"
        f" largest drawdown {number(result.largest_drawdown)}"
    )


def number(value: Decimal) -> str:
    """Without an exponent, and with up to eight decimals."""
    text = f"{value:,.8f}"
    return text.rstrip("0").rstrip(".")


def signed(value: Decimal) -> str:
    """With its sign."""
    return ("+" if value > 0 else "") + number(value)
