"""``python -m simulator`` as it is run."""

import asyncio
import json
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from simulator.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]


async def run(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulator", *arguments, cwd=REPOSITORY, stdout=PIPE, stderr=PIPE
    )


async def listening_line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 10)).decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_ends_cleanly(number: signal.Signals) -> None:
    process = await run("--port", "0", "--rest-burst", "5")
    line = await listening_line(process)
    found = re.fullmatch(r"simulator: listening, WebSocket ws://(\S+)/v2 REST (http://\1/0/public)\n", line)
    assert found is not None
    async with aiohttp.ClientSession() as http, http.get(found[2] + "/SystemStatus") as response:
        status = json.loads(await response.read())["result"]["status"]
    process.send_signal(number)
    rest, errors = await asyncio.wait_for(process.communicate(), 10)

    assert status == "online"
    assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_a_paused_one_makes_no_trade_until_it_is_told_to() -> None:
    process = await run("--port", "0", "--rate", "1000", "--paused")
    place = (await listening_line(process)).split()[-1].removesuffix("/0/public")
    async with aiohttp.ClientSession(place) as http:

        async def state(method: str, path: str) -> dict[str, object]:
            async with http.request(method, path) as response:
                answer: dict[str, object] = json.loads(await response.read())
                return answer

        await asyncio.sleep(0.05)  # long enough for fifty trades
        paused = await state("GET", "/control/state")
        started = await state("POST", "/control/start")
    process.terminate()
    await asyncio.wait_for(process.communicate(), 10)

    assert (paused["emitting"], paused["emitted"]) == (False, 0)
    assert started["emitting"] is True


async def test_it_ends_by_itself_after_its_duration() -> None:
    process = await run("--port", "0", "--duration-s", "0.05")
    _, errors = await asyncio.wait_for(process.communicate(), 10)

    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "0", "--trades", "pyproject.toml"),
        ("--port", "0", "--trades", "/nonexistent.json"),
        ("--port", "0", "--symbols", "BTC/USDT,FOOBAR"),
        ("--port", "0", "--symbols", ","),
        ("--port", "0", "--rate", "0"),
        ("--port", "0", "--rate", "nan"),
        ("--port", "0", "--rate", "fast"),
        ("--port", "0", "--history", "-1"),
        ("--port", "70000"),
        (),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as exit_:  # argparse leaves this way
        code = exit_.code
    captured = capsys.readouterr()

    assert (code, captured.out) == (2, "")
    assert re.fullmatch(r"simulator: [^\n]+\n", captured.err)


def test_a_port_in_use_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert main(["--port", str(port)]) == 2

    assert re.fullmatch(rf"simulator: cannot listen on 127.0.0.1:{port}: [^\n]+\n", capsys.readouterr().err)
