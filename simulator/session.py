"""The requests and answers of one WebSocket connection, without I/O: request in, frames out."""

import time
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from kraken_history.kraken.websocket import OHLC_INTERVALS
from kraken_history.symbols import CURRENCY
from simulator import frames
from simulator.exchange import Batch, Clock, Exchange

SNAPSHOT_TRADES = 50
"""Trades in a snapshot. Source: Kraken's documentation of ``trade``."""

SNAPSHOT_CANDLES = 10
"""Candles in a snapshot, about as many as recorded; the exact number is undocumented."""

_PRIVATE_CHANNELS = ("executions", "balances", "level3")


class Subscription(Struct, frozen=True):
    """A channel of one symbol; ``interval`` in minutes, 0 for ``trade``."""

    channel: str
    symbol: str
    interval: int = 0


class _Params(Struct):
    channel: str = ""
    symbol: list[str] = []
    snapshot: bool = True  # documented for trade in one place and false in another; recorded for ohlc
    interval: int = 1
    include_tokenized_assets: bool = False


class _Request(Struct):
    method: str = ""
    params: _Params = msgspec.field(default_factory=_Params)
    req_id: int | None = None


_request = msgspec.json.Decoder(_Request)


Refuses = Callable[[str, str], bool]
"""Decides whether to refuse a subscription to a channel of a symbol that could be accepted."""


class Session:
    """The subscriptions of one connection."""

    def __init__(
        self,
        exchange: Exchange,
        connection_id: int,
        clock: Clock = time.time_ns,
        refuses: Refuses = lambda channel, symbol: False,
    ) -> None:
        self.subscriptions: dict[Subscription, None] = {}  # a set that keeps its order
        self._exchange = exchange
        self._connection_id = connection_id
        self._clock = clock
        self._refuses = refuses

    def greeting(self) -> list[bytes]:
        """The frames sent before the first request, and when the engine's state changes."""
        return [frames.status(self._connection_id, self._exchange.system)]

    def answer(self, message: bytes | str) -> list[bytes]:
        """The frames that answer one request, snapshots included; nothing ever closes the socket."""
        time_in = self._clock()
        try:
            request = _request.decode(message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return [frames.refused("Malformed request", "", "", req_id=None, times=self._times(time_in))]
        match request.method:
            case "ping":
                return [frames.pong(req_id=request.req_id, times=self._times(time_in))]
            case "subscribe" | "unsubscribe":
                return self._answer_each_symbol(request, time_in)
            case _:
                return [self._refusal("Method not supported", request, "", time_in)]

    def updates(self, batch: Batch, prepared: dict[Subscription, list[bytes]]) -> list[bytes]:
        """The frames of one batch for this connection.

        Args:
            prepared: Frames already made of this batch, shared by all connections; filled here.
        """
        wanted: list[bytes] = []
        for subscription in self.subscriptions:
            if subscription.symbol in batch:
                if subscription not in prepared:
                    prepared[subscription] = self._update(subscription, batch)
                wanted += prepared[subscription]
        return wanted

    def _answer_each_symbol(self, request: _Request, time_in: int) -> list[bytes]:
        params = request.params
        if params.channel in _PRIVATE_CHANNELS:
            error = "Private data and trading are unavailable on this endpoint. Try ws-auth.kraken.com"
            return [self._refusal(error, request, "", time_in)]
        if params.channel == "instrument":
            return self._list_instruments(request, time_in)
        if params.channel not in ("trade", "ohlc") or not params.symbol:
            # Kraken has more public channels than this simulator; the words are not recorded.
            error = "Channel not supported" if params.symbol else "Symbol(s) not found"
            return [self._refusal(error, request, "", time_in)]
        answers: list[bytes] = []
        for symbol in params.symbol:
            interval = params.interval if params.channel == "ohlc" else 0
            wanted = Subscription(params.channel, symbol, interval)
            error = self._objection(wanted, request.method)
            if error:
                answers.append(self._refusal(error, request, symbol, time_in))
            elif request.method == "subscribe":
                answers += self._subscribe(wanted, request, time_in)
            else:
                answers.append(self._unsubscribe(wanted, request, time_in))
        return answers

    def _list_instruments(self, request: _Request, time_in: int) -> list[bytes]:
        """All symbols, once: no pair changes while the simulator runs, so there is nothing to update."""
        if request.method == "unsubscribe":
            return [frames.unlisted(req_id=request.req_id, times=self._times(time_in))]
        books = [
            book
            for book in self._exchange.listed
            if request.params.include_tokenized_assets or book.pair.asset_class == CURRENCY
        ]
        acknowledgement = frames.listed(req_id=request.req_id, times=self._times(time_in))
        return [acknowledgement, *([frames.instruments(books)] if request.params.snapshot else [])]

    def _objection(self, wanted: Subscription, method: str) -> str:
        if "/" not in wanted.symbol:
            return f"Currency pair not in ISO 4217-A3 format {wanted.symbol}"
        books, delisted = self._exchange.books, self._exchange.delisted
        if wanted.symbol not in books or (method == "subscribe" and wanted.symbol in delisted):
            # exact comparison: lower case is refused too
            return f"Currency pair not supported {wanted.symbol}"
        if wanted.channel == "ohlc" and wanted.interval not in OHLC_INTERVALS:
            return "Subscription ohlc interval not supported"  # the older WebSocket's words; v2's are not recorded
        if method == "subscribe" and wanted in self.subscriptions:
            return "Already subscribed"  # not recorded
        if method == "unsubscribe" and wanted not in self.subscriptions:
            return "Subscription Not Found"  # not recorded
        if method == "subscribe" and self._refuses(wanted.channel, wanted.symbol):
            return f"Currency pair not supported {wanted.symbol}"
        return ""

    def _subscribe(self, wanted: Subscription, request: _Request, time_in: int) -> list[bytes]:
        self.subscriptions[wanted] = None
        snapshot = request.params.snapshot
        acknowledgement = frames.subscribed(
            wanted.channel,
            wanted.symbol,
            wanted.interval,
            snapshot=snapshot,
            req_id=request.req_id,
            times=self._times(time_in),
        )
        return [acknowledgement, *(self._snapshot(wanted) if snapshot else [])]

    def _unsubscribe(self, wanted: Subscription, request: _Request, time_in: int) -> bytes:
        self.subscriptions.pop(wanted, None)
        return frames.unsubscribed(
            wanted.channel, wanted.symbol, wanted.interval, req_id=request.req_id, times=self._times(time_in)
        )

    def _snapshot(self, wanted: Subscription) -> list[bytes]:
        tape = self._exchange.tapes[wanted.symbol]
        if wanted.channel == "trade":
            return frames.trade_frames(
                tape.book, self._exchange.latest_shown(wanted.symbol, SNAPSHOT_TRADES), is_snapshot=True
            )
        candles = tape.candles(wanted.interval).latest(SNAPSHOT_CANDLES)
        now_ns = self._exchange.now_ns()
        return [frames.ohlc_frame(tape.book, candles, wanted.interval, now_ns, is_snapshot=True)]

    def _update(self, wanted: Subscription, batch: Batch) -> list[bytes]:
        tape = self._exchange.tapes[wanted.symbol]
        trades = batch[wanted.symbol]
        if wanted.channel == "trade":
            return frames.trade_frames(tape.book, trades)
        # One frame per candle that the batch changed: the candle before a rollover gets its last update too.
        series = tape.candles(wanted.interval)
        step_ns = series.step_s * 10**9
        last_of_candle: Mapping[int, int] = {trade.time_ns // step_ns: trade.time_ns for trade in trades}
        first_begin_s = min(last_of_candle) * series.step_s
        return [
            frames.ohlc_frame(tape.book, [candle], wanted.interval, last_of_candle[candle.begin_s // series.step_s])
            for candle in series.since(first_begin_s)
            if candle.begin_s // series.step_s in last_of_candle
        ]

    def _refusal(self, error: str, request: _Request, symbol: str, time_in: int) -> bytes:
        return frames.refused(error, request.method, symbol, req_id=request.req_id, times=self._times(time_in))

    def _times(self, time_in: int) -> tuple[int, int]:
        return time_in, max(self._clock(), time_in)
