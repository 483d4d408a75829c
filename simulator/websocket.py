"""The sockets at ``/v2``: a bounded queue and a sender for each, and one place where frames go out."""

import asyncio
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from random import Random

from aiohttp import ClientConnectionError, WSCloseCode, WSMsgType, web

from simulator import frames
from simulator.exchange import Batch, Clock, Exchange
from simulator.faults.director import Director
from simulator.faults.frames import FramePipe
from simulator.faults.rules import Facts
from simulator.session import Session, Subscription

MAX_QUEUED_BYTES = 16 * 1024 * 1024
"""Maximum bytes queued per client. A client further behind is disconnected: its queue uses the simulator's memory."""

HEARTBEAT_S = 1.0
"""Seconds without a frame after which a heartbeat is sent."""

_MAX_REQUEST_BYTES = 1024 * 1024


class Client:
    """One connection. :meth:`send` is the only way a frame leaves.

    Attributes:
        was_too_slow: The client was disconnected because its queue was full.
    """

    def __init__(
        self,
        websocket: web.WebSocketResponse,
        request: web.Request,
        session: Session,
        pipe: FramePipe,
        heartbeat_s: float,
        max_bytes: int,
    ) -> None:
        self.session = session
        self.pipe = pipe
        self.was_too_slow = False
        self._websocket = websocket
        self._transport = request.transport
        self._heartbeat_s = heartbeat_s
        self._max_bytes = max_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._has_frames = asyncio.Event()

    def send(self, frame: bytes) -> None:
        """Queue a frame, as the faults let it pass; a client whose queue is full is dropped."""
        now_s = time.monotonic()
        self.pipe.push(frame, now_s)
        self._queue_due(now_s)
        if self.queued_bytes > self._max_bytes:
            self.was_too_slow = True
            self.drop()
        self._has_frames.set()

    def _queue_due(self, now_s: float) -> None:
        for frame in self.pipe.take(now_s):
            self._queue.append(frame)
            self._queued_bytes += len(frame)

    @property
    def queued_bytes(self) -> int:
        """Bytes of frames that wait to be sent."""
        return self._queued_bytes + self.pipe.waiting_bytes

    def drop(self) -> None:
        """Cut the connection without a closing handshake, as a network does."""
        self._queue.clear()
        self._queued_bytes = 0
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Reset the TCP connection: the client gets RST, not FIN."""
        connection = self._transport.get_extra_info("socket") if self._transport is not None else None
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()

    async def close(self, code: int = WSCloseCode.GOING_AWAY) -> None:
        """Close the connection like a server that goes away; queued frames are lost."""
        with suppress(ConnectionError, ClientConnectionError, asyncio.TimeoutError):
            await asyncio.wait_for(self._websocket.close(code=code), timeout=1.0)

    async def run_sender(self) -> None:
        """Send queued frames, and heartbeats while none are queued, until cancelled or disconnected."""
        with suppress(ConnectionError, ClientConnectionError):
            while True:
                if not await self._wait_for_frames() and self._sends_heartbeats:
                    await self._write(frames.HEARTBEAT)
                while self._queue:
                    frame = self._queue.popleft()
                    self._queued_bytes -= len(frame)
                    await self._write(frame)

    async def _wait_for_frames(self) -> bool:
        """False once a heartbeat is due."""
        deadline_s = time.monotonic() + self._heartbeat_s
        while not self._queue:
            now_s = time.monotonic()
            if now_s >= deadline_s:
                return False
            due_in_s = self.pipe.due_in_s(now_s)
            wait_s = deadline_s - now_s if due_in_s is None else min(deadline_s - now_s, due_in_s)
            self._has_frames.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._has_frames.wait()
            self._queue_due(time.monotonic())
        return True

    @property
    def _sends_heartbeats(self) -> bool:
        return bool(self.session.subscriptions) and self.pipe.lets_heartbeats_pass(time.monotonic())

    async def _write(self, frame: bytes) -> None:
        await self._websocket.send_frame(frame, WSMsgType.TEXT)


class Hub:
    """All connections."""

    def __init__(
        self,
        exchange: Exchange,
        director: Director,
        *,
        clock: Clock = time.time_ns,
        heartbeat_s: float = HEARTBEAT_S,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self.clients: dict[Client, None] = {}  # in the order of their connections
        self.dropped_for_slowness = 0
        self.accepted = 0
        self._exchange = exchange
        self._director = director
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._max_queued_bytes = max_queued_bytes
        self._connection_ids = Random()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection until either side ends it."""
        for strike in self._director.ask("connect"):
            self._director.record(strike, {"clients": len(self.clients)})
            return web.Response(status=int(strike.args["status"]), text="the WebSocket is not available")
        websocket = web.WebSocketResponse(compress=False, max_msg_size=_MAX_REQUEST_BYTES)
        await websocket.prepare(request)
        self.accepted += 1
        connection_id = self._connection_ids.randrange(2**63, 2**64)
        session = Session(self._exchange, connection_id, self._clock, self._refuses)
        pipe = FramePipe(self._director, self.accepted)
        client = Client(websocket, request, session, pipe, self._heartbeat_s, self._max_queued_bytes)
        self.clients[client] = None
        sender = asyncio.create_task(client.run_sender())
        try:
            self._send(client, session.greeting())
            async for message in websocket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._send(client, session.answer(message.data))
        finally:
            self.clients.pop(client, None)
            self.dropped_for_slowness += client.was_too_slow
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return websocket

    def publish(self, batch: Batch) -> None:
        """Send a batch of trades, and the candles that they change, to the subscribers."""
        prepared: dict[Subscription, list[bytes]] = {}
        for client in self.clients:
            self._send(client, client.session.updates(batch, prepared))

    @property
    def most_queued_bytes(self) -> int:
        """Bytes that wait for the slowest client."""
        return max((client.queued_bytes for client in self.clients), default=0)

    def disconnect_all(self) -> int:
        """Cut every connection; return how many there were."""
        clients = list(self.clients)
        for client in clients:
            client.drop()
        return len(clients)

    def reset_all(self) -> int:
        """Reset every connection; return how many there were."""
        clients = list(self.clients)
        for client in clients:
            client.reset()
        return len(clients)

    def silence(self, s: float, *, symbol: str = "", heartbeats: bool = True) -> int:
        """Lose all frames of every open connection for some seconds; return how many there were."""
        until_s = time.monotonic() + s
        for client in self.clients:
            client.pipe.silence(until_s, symbol=symbol, heartbeats=heartbeats)
        return len(self.clients)

    def send_status(self) -> None:
        """Tell every client the state of the engine."""
        for client in self.clients:
            self._send(client, client.session.greeting())

    async def close(self, code: int = WSCloseCode.GOING_AWAY) -> None:
        """Close every connection, by default with "going away"."""
        await asyncio.gather(*(client.close(code) for client in list(self.clients)))

    def _refuses(self, channel: str, symbol: str) -> bool:
        strikes = self._director.ask("subscribe", f"{channel} {symbol}", Facts(symbol, channel))
        for strike in strikes:
            self._director.record(strike, {"on": channel, "symbol": symbol})
        return bool(strikes)

    @staticmethod
    def _send(client: Client, outgoing: list[bytes]) -> None:
        for frame in outgoing:
            client.send(frame)
