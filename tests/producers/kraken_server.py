"""A WebSocket server that does to its clients whatever a test says."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import ClientConnectionError, WSMsgType, web

HEARTBEAT = '{"channel":"heartbeat"}'
STATUS = '{"channel":"status","type":"update","data":[{"system":"%s","version":"2.0.10","api_version":"v2"}]}'


class Conversation:
    """One connection, from the server's side.

    Attributes:
        number: 1 for the server's first connection, and so on.
    """

    def __init__(self, socket: web.WebSocketResponse, number: int) -> None:
        self.socket = socket
        self.number = number

    async def send(self, frame: str | dict[str, Any]) -> None:
        """Send a frame, as it is or as JSON."""
        await self.socket.send_str(frame if isinstance(frame, str) else json.dumps(frame))

    async def request(self) -> dict[str, Any]:
        """The client's next request."""
        request = await self.socket.receive_json(timeout=10)
        assert isinstance(request, dict)
        return request

    async def acknowledge(self, request: dict[str, Any], symbols: Sequence[str] | None = None) -> None:
        """Accept a subscribe for these symbols, by default all that it asks for."""
        channel = request["params"]["channel"]
        for symbol in request["params"]["symbol"] if symbols is None else symbols:
            result = {"channel": channel, "symbol": symbol, "snapshot": True}
            await self.send({"method": "subscribe", "result": result, "success": True, "req_id": request["req_id"]})

    async def refuse(self, request: dict[str, Any], symbol: str) -> None:
        """Refuse one symbol of a subscribe, as Kraken was recorded to do."""
        error = f"Currency pair not supported {symbol}"
        answer = {"error": error, "method": "subscribe", "success": False, "symbol": symbol}
        await self.send({**answer, "req_id": request["req_id"]})

    async def accept_all(self) -> None:
        """Acknowledge both channels for all symbols."""
        for _ in range(2):
            await self.acknowledge(await self.request())

    async def stay(self) -> None:
        """Send heartbeats until the client leaves."""
        while True:
            await self.send(HEARTBEAT)
            try:
                message = await self.socket.receive(timeout=0.02)
            except TimeoutError:
                continue
            if message.type is not WSMsgType.TEXT:
                return

    async def keep_silent(self) -> None:
        """Send nothing until the client leaves."""
        while (await self.socket.receive()).type is WSMsgType.TEXT:
            pass

    def cut(self) -> None:
        """Drop the connection without a word."""
        transport = self.socket._req.transport if self.socket._req else None  # the public API has no way to be rude
        assert transport is not None
        transport.abort()


Script = Callable[[Conversation], Awaitable[None]]


class KrakenServer:
    """Plays a script on each connection.

    Attributes:
        connections: How many there were.
    """

    def __init__(self, script: Script) -> None:
        self.connections = 0
        self.port = 0
        self._script = script

    @property
    def url(self) -> str:
        """Where a client connects."""
        return f"ws://127.0.0.1:{self.port}/v2"

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        with suppress(ClientConnectionError, ConnectionError):  # the client left in the middle of it
            await self._script(Conversation(socket, self.connections))
        return socket


@asynccontextmanager
async def kraken_server(script: Script, *, port: int = 0) -> AsyncIterator[KrakenServer]:
    """A server on a free port, or on this one."""
    server = KrakenServer(script)
    application = web.Application()
    application.router.add_get("/v2", server.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()
