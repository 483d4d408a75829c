"""Kraken's public REST without I/O: path and parameters in, bytes out. Every answer is HTTP 200.

Sources: recorded pages of Trades, OHLC, AssetPairs, SystemStatus and Time; Kraken's documentation of them;
measurements of other clients, where a docstring says so.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from msgspec import Struct

from kraken_history.kraken.websocket import OHLC_INTERVALS
from kraken_history.symbols import CURRENCY
from simulator.books import Book
from simulator.candle_series import Candle
from simulator.exchange import Clock, Exchange
from simulator.notation import NS, VOLUME_DECIMALS, fixed, rest_time
from simulator.rate_limit import RateLimit
from simulator.tape import Tape, TapeTrade

MAX_TRADES = 1000
"""Maximum number of trades per page of Trades."""
COMMITTED_CANDLES = 720
"""Maximum number of closed candles per answer of OHLC."""

_FIRST_NANOSECONDS = 10**14
"""A ``since`` from here on is in nanoseconds; the same number of seconds lies three million years ahead."""

Params = Mapping[str, str]


class Refusal(Exception):
    """An error that Kraken returns in place of a result."""


class DroppedPage(Struct, frozen=True):
    """A page of Trades that begins with trades which a tape has dropped.

    Attributes:
        since: Float64 seconds, as :meth:`Tape.place_since` takes them.
        count: Maximum number of trades.
    """

    symbol: str
    since: float
    count: int


class RestApi:
    """Builds the answers; each is made by :meth:`answer`."""

    def __init__(self, exchange: Exchange, limit: RateLimit, clock: Clock) -> None:
        self._exchange = exchange
        self._limit = limit
        self._clock = clock
        self._symbols = _symbols_by_name(exchange.books.values())
        self._methods: dict[str, Callable[[Params], str]] = {
            "Trades": self._trades,
            "OHLC": self._ohlc,
            "AssetPairs": self._asset_pairs,
            "SystemStatus": self._system_status,
            "Time": self._time,
        }

    def answer(self, method: str, params: Params, address: str, older: Sequence[TapeTrade] | None = None) -> bytes:
        """The body of ``/0/public/<method>`` for the caller at this address.

        Args:
            older: The trades that :meth:`dropped_page` says are wanted.
        """
        if not self._limit.allows(self._limited_by(method, params, address)):
            return _error("EGeneral:Too many requests")
        try:
            if method not in self._methods:
                return _error("EGeneral:Unknown method")
            result = self._methods[method](params) if older is None else self._trades(params, older)
            return f'{{"error":[],"result":{result}}}'.encode()
        except Refusal as refusal:
            return _error(str(refusal))

    def dropped_page(self, method: str, params: Params) -> "DroppedPage | None":
        """The page that a call asks for, if its tape no longer holds all of it; None for any other call."""
        if method != "Trades" or "since" not in params:
            return None
        try:
            symbol, since = self._book(params).symbol, _since_seconds(params["since"])
            count = _page_size(params)
        except Refusal:
            return None
        return None if self._exchange.tapes[symbol].holds_all_since(since) else DroppedPage(symbol, since, count)

    def symbol_of(self, params: Params) -> str:
        """The symbol of the call's pair; empty if there is none."""
        name = params.get("pair", "")
        return self._symbols.get(name) or self._symbols.get(name.upper()) or ""

    def _limited_by(self, method: str, params: Params, address: str) -> tuple[str, ...]:
        """Trades and OHLC are limited by address and pair, the rest by address alone."""
        if method in ("Trades", "OHLC"):
            try:
                return address, self._book(params).symbol
            except Refusal:
                pass
        return (address,)

    def _book(self, params: Params) -> Book:
        """The book of ``pair``: altname, key and v2 symbol are taken, ``XBT/USD`` is not (measured).

        A tokenised asset is found only if ``asset_class`` says so.
        """
        if not params.get("pair"):
            raise Refusal("EGeneral:Invalid arguments")
        return self._book_of(params["pair"], params.get("asset_class", CURRENCY))

    def _book_of(self, name: str, asset_class: str) -> Book:
        symbol = self._symbols.get(name) or self._symbols.get(name.upper())
        if (
            symbol is None
            or symbol in self._exchange.delisted
            or self._exchange.books[symbol].pair.asset_class != asset_class
        ):
            raise Refusal("EQuery:Unknown asset pair")
        return self._exchange.books[symbol]

    def _trades(self, params: Params, older: Sequence[TapeTrade] | None = None) -> str:
        tape = self._exchange.tapes[self._book(params).symbol]
        count = _page_size(params)
        since = params.get("since")
        if older is not None:
            trades = list(older)
        elif since is None:
            trades = self._exchange.latest_shown(tape.book.symbol, count)
        else:
            trades = self._exchange.shown(tape.book.symbol, tape.place_since(_since_seconds(since)), count)
        last = str(trades[-1].time_ns) if trades else since or "0"
        rows = ",".join(_trade_row(tape.book, trade) for trade in trades)
        return f'{{"{tape.book.pair.key}":[{rows}],"last":{json.dumps(last)}}}'

    def _ohlc(self, params: Params) -> str:
        tape = self._exchange.tapes[self._book(params).symbol]
        interval = _whole_number(params.get("interval", "1"), 1, max(OHLC_INTERVALS))
        if interval not in OHLC_INTERVALS:
            raise Refusal("EGeneral:Invalid arguments")
        since = _whole_number(params.get("since", "0"), 0, 2**63)
        running_s = self._exchange.now_ns() // (interval * 60 * NS) * interval * 60
        rows = [
            row
            for begin_s, row in _ohlc_rows(tape, interval, running_s)
            if begin_s > since or begin_s == running_s  # the running candle is always there
        ]
        committed_s = running_s - interval * 60 if rows else since
        return f'{{"{tape.book.pair.key}":[{",".join(rows)}],"last":{committed_s}}}'

    def _asset_pairs(self, params: Params) -> str:
        """The pairs of one asset class: currencies, unless ``aclass_base`` names another class."""
        asset_class = params.get("aclass_base", CURRENCY)
        names = [name for name in params.get("pair", "").split(",") if name]
        asked = [self._book_of(name, asset_class) for name in names]
        books = asked or [book for book in self._exchange.listed if book.pair.asset_class == asset_class]
        return _json({book.pair.key: book.asset_pair() for book in books})

    def _system_status(self, params: Params) -> str:
        return _json({"status": self._exchange.system, "timestamp": f"{self._now():%Y-%m-%dT%H:%M:%SZ}"})

    def _time(self, params: Params) -> str:
        now = self._now()
        return _json({"unixtime": int(now.timestamp()), "rfc1123": f"{now:%a, %d %b %y %H:%M:%S} +0000"})

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock() // NS, tz=UTC)


def _symbols_by_name(books: Iterable[Book]) -> dict[str, str]:
    """Name that REST accepts → symbol. Names are in capitals, except those of tokenised assets."""
    return {name: book.symbol for book in books for name in (book.pair.altname, book.pair.key, book.symbol)}


def _trade_row(book: Book, trade: TapeTrade) -> str:
    return (
        f'["{book.padded_price(trade.price)}","{fixed(trade.volume, VOLUME_DECIMALS)}",{rest_time(trade.time_ns)!r},'
        f'"{trade.side[0]}","{trade.order_type[0]}",{json.dumps(trade.misc)},{trade.id}]'
    )


def _ohlc_rows(tape: Tape, interval: int, running_s: int) -> list[tuple[int, str]]:
    """Start and text of the running candle and the 720 before it, those without trades included."""
    series = tape.candles(interval)
    oldest_s = running_s - COMMITTED_CANDLES * series.step_s
    before = series.last_before(oldest_s)
    candles = {candle.begin_s: candle for candle in series.since(oldest_s)}
    if before is None:
        if not candles:
            return []
        oldest_s = next(iter(candles))
    close = before.close if before is not None else 0
    rows: list[tuple[int, str]] = []
    for begin_s in range(oldest_s, running_s + 1, series.step_s):
        candle = candles.get(begin_s)
        close = candle.close if candle is not None else close
        text = _candle_row(tape.book, candle) if candle is not None else _empty_row(tape.book, begin_s, close)
        rows.append((begin_s, text))
    return rows


def _candle_row(book: Book, candle: Candle) -> str:
    prices = (candle.open, candle.high, candle.low, candle.close, candle.vwap)
    texts = ",".join(f'"{book.price(price)}"' for price in prices)
    return f'[{candle.begin_s},{texts},"{fixed(candle.volume, VOLUME_DECIMALS)}",{candle.count}]'


def _empty_row(book: Book, begin_s: int, close: int) -> str:
    """A minute without trades, as recorded: the previous close four times, vwap ``0.0``."""
    texts = ",".join([f'"{book.price(close)}"'] * 4)
    return f'[{begin_s},{texts},"0.0","{fixed(0, VOLUME_DECIMALS)}",0]'


def _since_seconds(text: str) -> float:
    """``since`` as float64 seconds, from nanoseconds, seconds or fractional seconds."""
    try:
        since = Decimal(text)
        if not 0 <= since < 2**63:
            raise Refusal("EGeneral:Invalid arguments")
    except InvalidOperation as error:
        raise Refusal("EGeneral:Invalid arguments") from error
    return int(since) / NS if since >= _FIRST_NANOSECONDS else float(since)


def _page_size(params: Params) -> int:
    return _whole_number(params.get("count", str(MAX_TRADES)), 1, MAX_TRADES)


def _whole_number(text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20) or not lowest <= int(text) <= highest:
        raise Refusal("EGeneral:Invalid arguments")
    return int(text)


def _error(error: str) -> bytes:
    return _json({"error": [error]}).encode()


def _json(answer: object) -> str:
    return json.dumps(answer, separators=(",", ":"))
