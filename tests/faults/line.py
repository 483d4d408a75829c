"""A TCP proxy for one client of one server, on which a test can do to the connection what networks do."""

import asyncio
from contextlib import suppress
from typing import Literal, Self

from kraken_history.embedded.process import HOST

Direction = Literal["to server", "to client"]
_CHUNK = 65_536


class Watch:
    """Waits for bytes that pass in one direction.

    Attributes:
        seen: How often they passed. Bytes that are split between two chunks are not seen.
        passed: Set once they did.
    """

    def __init__(self, pattern: bytes, direction: Direction, freezes: Literal["before", "after"] | None) -> None:
        self.pattern = pattern
        self.direction = direction
        self.freezes = freezes
        self.seen = 0
        self.passed = asyncio.Event()

    async def wait(self, within_s: float = 30.0) -> None:
        """Wait until they have passed; fail if they do not."""
        async with asyncio.timeout(within_s):
            await self.passed.wait()


class _Link:
    """One connection through the line."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.is_dead = False
        self.flows = asyncio.Event()
        self.flows.set()

    def abort(self) -> None:
        for writer in (self.near, self.far):
            writer.transport.abort()


class Line:
    """Forwards one local port to a server.

    Attributes:
        host: The server.
        server_port: The server's port; new connections use it, so a line can lead to another server later.
        latency_s: Seconds that each chunk is held, in both directions.
        bytes_per_s: Limit of each direction of each connection; None for no limit.
    """

    def __init__(self, server_port: int, host: str = HOST) -> None:
        self.host = host
        self.server_port = server_port
        self.port = 0
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()
        self._watches: list[Watch] = []
        self._is_hanging = False

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """End every fault of this line, except on connections that hang for ever.

        It accepts connections, on the same port as before, and forwards at full speed.
        """
        self.latency_s, self.bytes_per_s, self._is_hanging = 0.0, None, False
        for link in self._links:
            if not link.is_dead:
                link.flows.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, HOST, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self.reset()

    async def reset(self) -> None:
        """Reset all connections. New ones work."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hang(self) -> None:
        """Swallow everything, as a network does that drops packets: also new connections get no answer."""
        self._is_hanging = True
        for link in self._links:
            link.flows.clear()

    def hang_what_is_open(self) -> None:
        """Swallow everything on the connections that are open now, for ever. New ones work."""
        for link in self._links:
            link.is_dead = True
            link.flows.clear()

    def half_close(self) -> None:
        """End the direction to the client of the open connections. The server does not notice."""
        for link in self._links:
            link.is_dead = True
            link.flows.clear()
            with suppress(OSError, RuntimeError):
                link.near.write_eof()

    def count(self, pattern: bytes, direction: Direction) -> Watch:
        """Count chunks with these bytes."""
        return self._watch(Watch(pattern, direction, None))

    def freeze(self, when: Literal["before", "after"], pattern: bytes, direction: Direction) -> Watch:
        """Hang the connection on which these bytes come first: just before they are forwarded, or just after."""
        return self._watch(Watch(pattern, direction, when))

    def _watch(self, watch: Watch) -> Watch:
        self._watches.append(watch)
        return watch

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self.host, self.server_port)
        except OSError:
            writer.transport.abort()
            return
        except BaseException:
            writer.transport.abort()
            raise
        link = _Link(writer, back)
        self._links.add(link)
        if self._is_hanging:
            link.flows.clear()
        try:
            await asyncio.gather(
                self._pump(reader, back, link, "to server"), self._pump(there, writer, link, "to client")
            )
        finally:
            self._links.discard(link)
            link.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, link: _Link, direction: Direction
    ) -> None:
        with suppress(ConnectionError):
            while True:
                data = await source.read(_CHUNK)
                held_s = self.latency_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0.0)
                if held_s:
                    await asyncio.sleep(held_s)
                freezing = self._look(data, direction)
                if "before" in freezing:
                    link.flows.clear()
                await link.flows.wait()
                if not data:
                    break
                sink.write(data)
                await sink.drain()
                if "after" in freezing:
                    link.flows.clear()
        sink.transport.abort()

    def _look(self, data: bytes, direction: Direction) -> set[str]:
        freezing: set[str] = set()
        for watch in self._watches:
            if watch.direction == direction and watch.pattern in data:
                watch.seen += 1
                if watch.freezes and not watch.passed.is_set():
                    freezing.add(watch.freezes)
                watch.passed.set()
        return freezing
