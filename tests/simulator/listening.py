"""Clients of the simulator's WebSocket, as tests of its faults need them."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.websocket import Channel, Frame, Subscribed, Trades, decode_frame, encode_subscribe
from simulator import Simulator
from simulator.faults.log import encode

BTC, ETH = "BTC/USDT", "ETH/USDT"


class Listener:
    """A client that keeps what it receives."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.texts: list[str] = []
        self._pings = 0

    async def subscribe(self, *symbols: str, channel: Channel = "trade") -> None:
        """Subscribe, and read the answers and the snapshots."""
        await self.socket.send_bytes(encode_subscribe(channel, symbols, req_id=1))
        await self.hear()
        self.texts.clear()

    async def hear(self) -> list[str]:
        """Everything up to the answer to a ping, which takes the same way as other frames; heartbeats left out."""
        self._pings += 1
        await self.socket.send_json({"method": "ping", "req_id": self._pings})
        while True:
            text = await self.socket.receive_str(timeout=5)
            if f'"method":"pong","req_id":{self._pings},' in text:
                return self.texts
            self.texts += [] if "heartbeat" in text else [text]

    async def hear_frames(self, count: int) -> list[str]:
        """Frames until there are this many, heartbeats left out."""
        while len(self.texts) < count:
            text = await self.socket.receive_str(timeout=5)
            self.texts += [] if "heartbeat" in text else [text]
        return self.texts

    async def hear_until_silent(self, silent_s: float, *, at_most: int) -> list[str]:
        """What comes before a silence of this length; fail if more than so many frames come."""
        heard: list[str] = []
        while len(heard) <= at_most:
            try:
                heard.append(await self.socket.receive_str(timeout=silent_s))
            except TimeoutError:
                return heard
        raise AssertionError(f"still not silent after {at_most} frames")

    @property
    def frames(self) -> list[Frame]:
        """The frames that can be decoded."""
        found: list[Frame] = []
        for text in self.texts:
            try:
                found.append(decode_frame(text))
            except MalformedMessage:
                continue
        return found

    @property
    def ids(self) -> list[list[int]]:
        """The ids of each frame of trades."""
        return [[trade.id for trade in frame.trades] for frame in self.frames if isinstance(frame, Trades)]

    @property
    def accepted(self) -> list[str]:
        return [frame.symbol for frame in self.frames if isinstance(frame, Subscribed)]

    async def end(self) -> tuple[WSMsgType, Any]:
        """Read to the end of the socket; how it ended."""
        while True:
            message = await self.socket.receive(timeout=5)
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return message.type, message.data


@asynccontextmanager
async def listener(simulator: Simulator, *symbols: str) -> AsyncIterator[Listener]:
    """A client, subscribed to the trades of these symbols."""
    async with aiohttp.ClientSession() as http, http.ws_connect(simulator.ws_url) as socket:
        listener = Listener(socket)
        await socket.receive_str(timeout=5)  # the status
        if symbols:
            await listener.subscribe(*symbols)
        yield listener


def made(simulator: Simulator, *counts: int, symbol: str = BTC) -> list[list[int]]:
    """Make trades in as many batches; the ids of each."""
    return [[trade.id for trade in simulator.emit(count)[symbol]] for count in counts]


def lines_of(simulator: Simulator) -> list[Any]:
    """The log, without times."""
    return [_timeless(json.loads(text)) for text in log_texts(simulator)]


def log_texts(simulator: Simulator) -> Sequence[str]:
    return [encode(line) for line in simulator.director.log.after(0)]


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("time", "s")}
