"""The proxy itself: each of its faults is what the network would do."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.faults.line import Line

HOST = "127.0.0.1"
_SOON_S = 5.0
_NEVER_S = 0.2


class Echo:
    """A server that answers each line with itself."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, HOST, 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


class Client:
    """A client of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, line: Line) -> "Client":
        return cls(*await asyncio.open_connection(HOST, line.port))

    def say(self, line: bytes) -> None:
        self._writer.write(line)

    async def hears(self) -> bytes:
        """The next line, empty at the end."""
        return await asyncio.wait_for(self._reader.readline(), _SOON_S)

    async def hears_nothing(self) -> bool:
        try:
            await asyncio.wait_for(self._reader.readline(), _NEVER_S)
        except TimeoutError:
            return True
        return False

    async def is_cut(self) -> bool:
        try:
            return not await self.hears()
        except ConnectionError:
            return True

    def leave(self) -> None:
        self._writer.transport.abort()


async def test_what_is_said_comes_back(echo: Echo) -> None:
    async with Line(echo.port) as line:
        client = await Client.of(line)
        client.say(b"a\n")

        assert await client.hears() == b"a\n"
        client.leave()


async def test_a_cut_line_resets_its_connections_and_refuses_new_ones_until_it_is_restored(echo: Echo) -> None:
    async with Line(echo.port) as line:
        client = await Client.of(line)
        client.say(b"a\n")
        await client.hears()
        await line.cut()
        assert await client.is_cut()
        client.leave()
        with pytest.raises(ConnectionError):
            await Client.of(line)
        await line.restore()
        client = await Client.of(line)
        client.say(b"b\n")

        assert await client.hears() == b"b\n"
        client.leave()


async def test_a_black_hole_gives_back_what_it_swallowed_once_it_is_over(echo: Echo) -> None:
    async with Line(echo.port) as line:
        client = await Client.of(line)
        line.hang()
        client.say(b"a\n")
        new = await Client.of(line)
        new.say(b"b\n")

        assert await client.hears_nothing()
        assert echo.lines == []
        await line.restore()
        assert [await client.hears(), await new.hears()] == [b"a\n", b"b\n"]
        client.leave()
        new.leave()


async def test_connections_that_went_silent_stay_so_and_new_ones_work(echo: Echo) -> None:
    async with Line(echo.port) as line:
        client = await Client.of(line)
        client.say(b"a\n")
        await client.hears()
        line.hang_what_is_open()
        await line.restore()
        client.say(b"b\n")
        new = await Client.of(line)
        new.say(b"c\n")

        assert await new.hears() == b"c\n"
        assert await client.hears_nothing()
        assert echo.lines == [b"a\n", b"c\n"]
        client.leave()
        new.leave()


async def test_a_half_closed_connection_has_ended_for_the_client_only(echo: Echo) -> None:
    async with Line(echo.port) as line:
        client = await Client.of(line)
        client.say(b"a\n")
        await client.hears()
        line.half_close()

        assert await client.hears() == b""
        client.leave()


@pytest.mark.parametrize(("when", "arrived"), [("before", [b"a\n"]), ("after", [b"a\n", b"stop\n"])])
async def test_a_line_freezes_exactly_where_it_was_told_to(echo: Echo, when: str, arrived: list[bytes]) -> None:
    async with Line(echo.port) as line:
        watch = line.freeze("before" if when == "before" else "after", b"stop", "to server")
        client = await Client.of(line)
        client.say(b"a\n")
        await client.hears()
        client.say(b"stop\n")
        await watch.wait()

        assert await client.hears_nothing()
        assert echo.lines == arrived
        client.leave()


async def test_a_slow_line_holds_each_chunk(echo: Echo) -> None:
    async with Line(echo.port) as line:
        line.latency_s = 0.1
        client = await Client.of(line)
        began = asyncio.get_running_loop().time()
        client.say(b"a\n")

        assert await client.hears() == b"a\n"
        assert asyncio.get_running_loop().time() - began >= 0.2
        client.leave()
