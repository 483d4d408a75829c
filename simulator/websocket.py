"""The sockets at ``/v2``: a bounded queue and a sender for each, and one place where frames go out."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from random import Random

from aiohttp import ClientConnectionError, WSCloseCode, WSMsgType, web

from simulator import frames
from simulator.exchange import Batch, Clock, Exchange
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
        self, socket: web.WebSocketResponse, request: web.Request, session: Session, heartbeat_s: float, max_bytes: int
    ) -> None:
        self.session = session
        self.was_too_slow = False
        self._socket = socket
        self._transport = request.transport
        self._heartbeat_s = heartbeat_s
        self._max_bytes = max_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._has_frames = asyncio.Event()

    def send(self, frame: bytes) -> None:
        """Queue a frame; a client whose queue is full is dropped."""
        if self._queued_bytes + len(frame) > self._max_bytes:
            self.was_too_slow = True
            self.drop()
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._has_frames.set()

    def drop(self) -> None:
        """Cut the connection without a closing handshake, as a network does."""
        self._queue.clear()
        self._queued_bytes = 0
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Close the connection like a server that goes away; queued frames are lost."""
        with suppress(ConnectionError, ClientConnectionError, asyncio.TimeoutError):
            await asyncio.wait_for(self._socket.close(code=WSCloseCode.GOING_AWAY), timeout=1.0)

    async def run_sender(self) -> None:
        """Send queued frames, and heartbeats while none are queued, until cancelled or disconnected."""
        with suppress(ConnectionError, ClientConnectionError):
            while True:
                if not await self._wait_for_frames() and self.session.subscriptions:
                    await self._write(frames.HEARTBEAT)
                while self._queue:
                    frame = self._queue.popleft()
                    self._queued_bytes -= len(frame)
                    await self._write(frame)

    async def _wait_for_frames(self) -> bool:
        if not self._queue:
            self._has_frames.clear()
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._has_frames.wait()
            except TimeoutError:
                return False
        return True

    async def _write(self, frame: bytes) -> None:
        await self._socket.send_frame(frame, WSMsgType.TEXT)


class Hub:
    """All connections."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        clock: Clock = time.time_ns,
        heartbeat_s: float = HEARTBEAT_S,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self.clients: set[Client] = set()
        self.dropped_for_slowness = 0
        self._exchange = exchange
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._max_queued_bytes = max_queued_bytes
        self._connection_ids = Random()

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until either side ends it."""
        socket = web.WebSocketResponse(compress=False, max_msg_size=_MAX_REQUEST_BYTES)
        await socket.prepare(request)
        session = Session(self._exchange, self._connection_ids.randrange(2**63, 2**64), self._clock)
        client = Client(socket, request, session, self._heartbeat_s, self._max_queued_bytes)
        self.clients.add(client)
        sender = asyncio.create_task(client.run_sender())
        try:
            self._send(client, session.greeting())
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._send(client, session.answer(message.data))
        finally:
            self.clients.discard(client)
            self.dropped_for_slowness += client.was_too_slow
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return socket

    def publish(self, batch: Batch) -> None:
        """Send a batch of trades, and the candles that they change, to the subscribers."""
        prepared: dict[Subscription, list[bytes]] = {}
        for client in self.clients:
            self._send(client, client.session.updates(batch, prepared))

    def disconnect_all(self) -> int:
        """Cut every connection; return how many there were."""
        clients = list(self.clients)
        for client in clients:
            client.drop()
        return len(clients)

    async def close(self) -> None:
        """Close every connection with "going away"."""
        await asyncio.gather(*(client.close() for client in list(self.clients)))

    @staticmethod
    def _send(client: Client, outgoing: list[bytes]) -> None:
        for frame in outgoing:
            client.send(frame)
