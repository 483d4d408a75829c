"""The socket to Kraken: connect, subscribe, watch, pass frames on, and reconnect, until cancelled."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import aiohttp

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.websocket import (
    Candles,
    Frame,
    Instruments,
    Pong,
    Refused,
    Status,
    Subscribed,
    Trades,
    decode_frame,
    encode_instruments,
    encode_no_instruments,
    encode_ping,
    encode_subscribe,
)
from kraken_history.leaps import NewestIds
from kraken_history.records import RefusedTrade
from kraken_history.runtime import telemetry
from kraken_history.runtime.clocks import OtherClock
from kraken_history.stream.publisher import Publisher
from kraken_history.urls import without_account
from producers.naming import Naming
from producers.reconnect import LONGEST_ASK_AGAIN_S, ask_again_delay_s, reconnect_delay_s
from producers.subscriptions import Subscriptions

PING_EVERY_S = 30.0
"""Seconds between pings. Kraken closes a connection after about a minute without a request."""

SUBSCRIBE_AGAIN_AFTER_S = 2.0
"""Seconds before unanswered subscriptions are sent again, if Kraken has refused a message as one too many."""

_LIST_REQUEST = 9  # request id; other requests have the number of their channel, or 0
_CONNECT_TIMEOUT_S = 15.0
_LARGEST_FRAME_BYTES = 16 * 2**20
_SOUND_SESSION_S = 60.0  # a shorter session counts as a failure; otherwise a flapping server would get us banned
_log = telemetry.get_logger("producer")


class SessionEnded(Exception):
    """The session is over; the message says why."""


class Feed:
    """Publishes the trades and running candles of some symbols until cancelled.

    Args:
        symbols: As WebSocket v2 writes them, or other names of the same pairs, which the feed looks up in Kraken's
            list of symbols; a symbol that Kraken refuses is looked up too.
        on_connected: Called each time a connection has its subscriptions answered; must not wait or raise.
        clock: Kraken's clock, which its answers tell.

    Attributes:
        system: The matching engine's last reported state; empty before the first report.
        refused: Symbols that Kraken refused on this connection, and names without a symbol, each with the reason.
        connected: True while a socket is subscribed and not silent.
        is_open: True while a socket is open, whether or not its subscriptions are answered.
        trouble: Why the last session ended or could not begin; empty while connected.
        waiting_for: What an open socket waits for; empty while connected, or without a socket.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        url: str,
        symbols: Sequence[str],
        ack_timeout_s: float = 10.0,
        silence_timeout_s: float = 10.0,
        longest_ask_again_s: float = LONGEST_ASK_AGAIN_S,
        subscribe_again_after_s: float = SUBSCRIBE_AGAIN_AFTER_S,
        on_connected: Callable[[], None] | None = None,
        clock: OtherClock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = OtherClock() if clock is None else clock
        self._publisher = publisher
        self._url = url
        self._names = Naming(symbols)
        self._ack_timeout_s = ack_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._longest_ask_again_s = longest_ask_again_s
        self._subscribe_again_after_s = subscribe_again_after_s
        self._on_connected = on_connected
        self._rng = rng or random.Random()
        self._failures = 0
        self._last_ids = NewestIds()
        self._subscriptions = Subscriptions(self._names.symbols)
        self._list_asked_at: float | None = None
        self._found: list[str] | None = None
        self._subscribed_at = 0.0
        self._too_often: str = ""
        self._too_often_at = 0.0
        self.system = ""
        self.is_open = False
        self.connected = False
        self.trouble = ""
        self.sessions = 0

    @property
    def refused(self) -> dict[str, str]:
        return dict(self._subscriptions.refused)

    @property
    def symbols(self) -> list[str]:
        """The symbols that are subscribed, refused ones included."""
        return self._names.symbols

    @property
    def waiting_for(self) -> str:
        if not self.is_open or self.connected:
            return ""
        said = f" (it answered: {self._too_often})" if self._too_often else ""
        return f"the socket to Kraken is open, and subscriptions are not answered yet{said}"

    @property
    def last_ids(self) -> dict[str, int]:
        """Symbol → the highest trade id seen, without ids that leap absurdly."""
        return self._last_ids.by_symbol

    async def run(self) -> None:
        """Stay connected until cancelled. No network failure ends this."""
        async with aiohttp.ClientSession() as http:
            while True:
                started = time.monotonic()
                try:
                    await self._session(http)
                except (SessionEnded, aiohttp.ClientError, OSError, TimeoutError) as error:
                    self.trouble = str(error) or type(error).__name__
                finally:
                    self.connected = self.is_open = False
                self._failures = 1 if time.monotonic() - started > _SOUND_SESSION_S else self._failures + 1
                in_maintenance = self.system not in ("", "online")
                delay_s = reconnect_delay_s(self._failures, in_maintenance=in_maintenance, rng=self._rng)
                telemetry.RECONNECTS.inc()
                _log.warning("disconnected", reason=self.trouble, failures=self._failures, retry_in_s=round(delay_s, 1))
                await asyncio.sleep(delay_s)

    async def _session(self, http: aiohttp.ClientSession) -> None:
        timeout = aiohttp.ClientWSTimeout(ws_close=2.0)
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            socket = await http.ws_connect(self._url, timeout=timeout, max_msg_size=_LARGEST_FRAME_BYTES, compress=0)
        async with socket:
            self.sessions += 1
            self.is_open = True
            self._too_often = ""
            self._subscriptions = Subscriptions(self._names.symbols)
            self._list_asked_at = None
            self._found = None
            self._subscribed_at = time.monotonic()
            _log.info("connected", url=without_account(self._url), session=self.sessions)
            if self._names.symbols:
                await self._subscribe(socket, self._names.symbols)
            await self._read(socket)

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse, symbols: Sequence[str]) -> None:
        self._subscribed_at = time.monotonic()
        for req_id, channel in self._subscriptions.requests:
            await socket.send_str(encode_subscribe(channel, symbols, req_id=req_id).decode())

    async def _subscribe_again_if_due(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Send unanswered subscriptions again, some time after Kraken refused a message as one too many."""
        if not self._too_often or time.monotonic() - self._too_often_at < self._subscribe_again_after_s:
            return
        self._too_often = ""
        self._subscribed_at = time.monotonic()
        for req_id, channel in self._subscriptions.requests:
            symbols = self._subscriptions.unanswered_of(channel)
            if symbols:
                await socket.send_str(encode_subscribe(channel, symbols, req_id=req_id).decode())

    async def _look_names_up(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Request the list of symbols if a name is open. Once it has come, unsubscribe it and subscribe the finds."""
        if self._names.unsettled and self._list_asked_at is None:
            self._list_asked_at = time.monotonic()
            await socket.send_str(encode_instruments(req_id=_LIST_REQUEST).decode())
        if self._found is not None:
            found, self._found = self._subscriptions.add(self._found), None
            await socket.send_str(encode_no_instruments(req_id=_LIST_REQUEST).decode())
            if found:
                await self._subscribe(socket, found)

    @property
    def _is_looking_up(self) -> bool:
        waited_s = 0.0 if self._list_asked_at is None else time.monotonic() - self._list_asked_at
        return bool(self._names.unsettled) and waited_s < self._ack_timeout_s

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        pinged = asked = time.monotonic()
        times = 0  # refused symbols were asked for again
        while True:
            await self._look_names_up(socket)
            try:
                message = await socket.receive(timeout=self._silence_timeout_s)
            except TimeoutError:
                raise SessionEnded(f"the socket was silent for {self._silence_timeout_s:g} s") from None
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise SessionEnded(f"the socket closed ({socket.close_code or message.type.name})")
            self._take(message.data)
            await self._subscribe_again_if_due(socket)
            now = time.monotonic()
            self._check_list()
            self._check_answers(now - self._subscribed_at)
            if now - pinged > PING_EVERY_S:
                pinged = now
                await socket.send_str(encode_ping(req_id=0).decode())
            if not self._subscriptions.refused:
                asked, times = now, 0
            elif now - asked > ask_again_delay_s(times, longest_s=self._longest_ask_again_s):
                asked, times = now, times + 1
                await self._ask_again(socket)

    async def _ask_again(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        refused = list(self._subscriptions.refused)
        self._names.doubt(refused)
        self._list_asked_at = None
        self._subscribed_at = time.monotonic()
        for req_id, channel in self._subscriptions.requests:
            ours = [name for name in refused if name in self._subscriptions.symbols]
            symbols = self._subscriptions.not_accepted_of(channel, ours)
            if symbols:
                await socket.send_str(encode_subscribe(channel, symbols, req_id=req_id).decode())

    def _check_list(self) -> None:
        """If the list of symbols did not come in time, count the open names as refused."""
        if self._list_asked_at is not None and self._names.unsettled and not self._is_looking_up:
            reason = f"Kraken did not list its symbols within {self._ack_timeout_s:g} s; write BASE/QUOTE"
            self._note_unknown(dict.fromkeys(self._names.unsettled, reason))

    def _check_answers(self, waited_s: float) -> None:
        waiting = self._subscriptions
        if waiting.all_refused and not self._is_looking_up and self._found is None:
            raise SessionEnded(f"Kraken refused every symbol ({', '.join(waiting.refused)}): correct SYMBOLS")
        if waiting.unanswered and waited_s > self._ack_timeout_s:
            names = ", ".join(f"{channel} {symbol}" for channel, symbol in sorted(waiting.unanswered))
            raise SessionEnded(f"not acknowledged within {self._ack_timeout_s:g} s: {names}")
        if waiting.are_answered and not self.connected:
            self.connected = True
            self.trouble = ""
            _log.info("subscribed", symbols=[s for s in waiting.symbols if s not in waiting.refused])
            if self._on_connected is not None:
                self._on_connected()

    def _take(self, data: str) -> None:
        try:
            frame = decode_frame(data)
        except MalformedMessage as error:
            _log.error("malformed_frame", reason=error.reason)
            self._publisher.add_malformed(error)
            return
        telemetry.FRAMES.labels(kind=type(frame).__name__.lower()).inc()
        self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        match frame:
            case Trades(trades, _, refused, unreadable):
                self._put_aside(refused, unreadable)
                for trade in trades:
                    self._last_ids.note(trade.symbol, trade.id, trade.timestamp)
                self._publisher.add_trades(trades)
            case Candles(candles):
                self._publisher.add_candles([candle for candle in candles if candle.interval_minutes == 1])
            case Status(system, version):
                telemetry.STATUS_MESSAGES.labels(system=system).inc()
                _log.log(20 if system == "online" else 30, "status", system=system, version=version)
                self.system = system
            case Instruments(symbols):
                self._look_into(symbols)
            case Subscribed():
                self._note_time(frame.time)
                self._subscriptions.accept(frame)
            case Pong(told):
                self._note_time(told)
            case Refused():
                self._refused(frame)
            case _:  # heartbeats and channels that were not subscribed
                pass

    def _note_time(self, told: datetime | None) -> None:
        if told is not None:
            self._clock.note(told)

    def _put_aside(self, refused: Sequence[RefusedTrade], unreadable: Sequence[MalformedMessage]) -> None:
        for trade in refused:
            _log.error("refused_trade", symbol=trade.symbol, id=trade.id, reason=trade.reason)
        self._publisher.add_refused(refused)
        for error in unreadable:
            _log.error("malformed_row", reason=error.reason)
            self._publisher.add_malformed(error)

    def _look_into(self, listed: Sequence[str]) -> None:
        """Look up the open names in the list of all symbols."""
        if not self._names.unsettled:
            return
        found = self._names.settle(listed)
        other = {name: symbol for name, symbol in found.symbols.items() if symbol != name}
        self._subscriptions.rename(other)
        self._found = list(other.values())
        self._note_unknown(found.unknown)
        _log.info("names_looked_up", symbols=other, unknown=list(found.unknown))

    def _note_unknown(self, reasons: Mapping[str, str]) -> None:
        for name, reason in reasons.items():
            if name not in self._subscriptions.refused:
                self._subscriptions.refused[name] = reason
                telemetry.SUBSCRIPTIONS_REFUSED.labels(symbol=name).inc()

    def _refused(self, answer: Refused) -> None:
        if answer.req_id == _LIST_REQUEST:
            self._note_unknown(dict.fromkeys(self._names.unsettled, answer.error))
            self._list_asked_at = -math.inf  # stop waiting for the list
            return
        if not answer.method and self._subscriptions.unanswered:  # {"Error":"Exceeded msg rate"}
            self._too_often, self._too_often_at = answer.error, time.monotonic()
        newly = self._subscriptions.refuse(answer) if answer.method == "subscribe" else []
        for symbol in newly:
            telemetry.SUBSCRIPTIONS_REFUSED.labels(symbol=symbol).inc()
        self._names.doubt(newly)
        _log.error("refused", error=answer.error, symbols=newly)
