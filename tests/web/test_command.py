"""``kraken-history web``: it serves until it is stopped, and says in one line what is wrong."""

import asyncio
import re
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.support.command import Run
from tests.support.services import Service
from tests.support.waiting import until

WEB = ("-m", "kraken_history", "web", "--port", "0")
ADDRESS = re.compile(r"^(http://127\.0\.0\.1:\d+)/api/docs describes the API; Ctrl-C stops the server$", re.MULTILINE)


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_it_is_stopped(number: signal.Signals, history_url: str, tmp_path: Path) -> None:
    with Service(WEB, tmp_path / "log", {"DATABASE_URL": history_url}) as web:
        await until(lambda: ADDRESS.search(web.output))
        found = ADDRESS.search(web.output)
        assert found is not None
        async with aiohttp.ClientSession(found[1]) as session:

            async def is_ready() -> bool:
                try:
                    async with session.get("/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await until(is_ready)
            # An open stream of events does not keep the server from ending.
            async with session.get("/api/v1/events/candles", params={"symbol": "BTC/USDT"}) as stream:
                assert await stream.content.readline() == b": following\n"
                web.send(number)
                await asyncio.to_thread(web.wait)

        assert "Traceback" not in web.output
        assert web.output.count("\n") == 1, web.output


def test_a_port_that_is_taken_is_one_line(command: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = command("web", "--port", str(port))

    assert outcome.code == 2
    assert outcome.err == (
        f"kraken-history: cannot listen on 127.0.0.1, port {port}: Address already in use;"
        " choose another with --host or --port\n"
    )
    assert not (tmp_path / "data").exists()  # no server was started


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [
        ("0.0.0.0", "", "expected WEB_TOKEN to be set, because WEB_HOST 0.0.0.0 can be reached by other machines"),
        ("0.0.0.0", "short", "expected a WEB_TOKEN of at least 16 characters, got a shorter one"),
    ],
)
def test_an_open_server_needs_a_token(host: str, token: str, message: str, command: Run) -> None:
    outcome = command("web", WEB_HOST=host, WEB_TOKEN=token)

    assert (outcome.code, outcome.err) == (2, f"kraken-history: {message}\n")
