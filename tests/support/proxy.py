"""A TCP proxy that a test can cut, to take a server away from one client and give it back."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

HOST = "127.0.0.1"


class Proxy:
    """Stands in front of the server of a URL, as ``async with Proxy(url) as proxy``.

    Attributes:
        connections: Number of connections accepted so far.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self.connections = 0
        self._flows = asyncio.Event()

    @property
    def url(self) -> str:
        """The server's URL, through the proxy."""
        credentials = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{credentials}@{HOST}:{self._port}"))

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Accept connections, on the same port as before, and forward their data."""
        self._flows = asyncio.Event()
        self._flows.set()
        self._listener = await asyncio.start_server(self._accept, HOST, self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Drop all connections and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lead_to(self, url: str) -> None:
        """Forward new connections to another server, as a failover does; those that are open stay where they lead."""
        self._parts = self._parts._replace(netloc=urlsplit(url).netloc)

    def silence(self) -> None:
        """Keep all connections, accept new ones, and forward nothing any more."""
        self._flows.clear()

    def silence_what_is_open(self) -> None:
        """Keep all connections and forward nothing on them any more; new connections work."""
        self._flows.clear()
        self._flows = asyncio.Event()
        self._flows.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            flows = self._flows
            there, back = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            try:
                await asyncio.gather(self._pump(reader, back, flows), self._pump(there, writer, flows))
            finally:
                back.transport.abort()
        finally:
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                await flows.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
