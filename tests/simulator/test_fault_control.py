"""Faults over HTTP and from the command line, and what is refused."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kraken_history.errors import UsageError
from simulator import Simulator
from simulator.__main__ import main
from simulator.faults.kinds import KINDS
from simulator.faults.log import read_log
from simulator.faults.rules import rule_of, rules_of
from tests.simulator.listening import BTC, lines_of, listener, made
from tests.simulator.test_command import REPOSITORY, listening_line, run


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    async with Simulator(symbols=[BTC], emitting=False, fault_seed=3) as kraken:
        yield kraken


@pytest.fixture
async def http(kraken: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(kraken.rest_url) as http:
        yield http


async def post(http: aiohttp.ClientSession, body: str | bytes) -> tuple[int, Any]:
    async with http.post("/control/faults", data=body) as response:
        return response.status, await response.json()


async def get_log(http: aiohttp.ClientSession, after: int = 0) -> list[Any]:
    async with http.get("/control/faults/log", params={"after": str(after)}) as response:
        return [json.loads(line) for line in (await response.text()).splitlines()]


@pytest.mark.parametrize(
    "body",
    [
        '{"fault": "drop", "count": 2}',
        '[{"fault": "drop"}, {"fault": "drop", "symbol": "BTC/USDT"}]',
        "drop:count=2",
        '"drop;drop"',
    ],
)
async def test_a_fault_is_armed_by_json_or_by_text(kraken: Simulator, http: aiohttp.ClientSession, body: str) -> None:
    async with listener(kraken, BTC) as client:
        status, armed = await post(http, body)
        ids = made(kraken, 1)
        struck = kraken.director.log.count
        ids += made(kraken, 2, 3)
        await client.hear()
        lines = await get_log(http)

    assert status == 200
    assert {rule["fault"] for rule in armed["armed"]} == {"drop"}
    assert struck in (1, 2)
    assert len(lines) == 2
    assert client.ids[-1] == ids[-1]


async def test_a_fault_of_the_sockets_strikes_before_the_answer(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    async with listener(kraken, BTC) as client:
        _, answer = await post(http, "cut;skip_ids:n=3")
        await client.end()
    lines = await get_log(http)

    assert [line["fault"] for line in answer["struck"]] == ["cut", "skip_ids"]
    assert answer["struck"][0]["hit"] == {"clients": 1}
    assert lines == answer["struck"]
    assert await get_log(http, after=1) == lines[1:]


async def test_the_state_of_the_faults_is_shown_and_ended(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.emit(3)
    newest = kraken.exchange.tapes[BTC].last_id
    await post(http, f'["bust", "delist:symbol={BTC}", "maintenance", "clock_jump:by_s=60", "drop:p=0.5"]')
    async with http.get("/control/faults") as response:
        before = await response.json()
    async with http.delete("/control/faults") as response:
        after = await response.json()

    assert (before["system"], before["delisted"], before["clock_offset_s"]) == ("maintenance", [BTC], 60)
    assert before["busted"] == after["busted"] == {BTC: [newest]}
    assert [rule["fault"] for rule in before["armed"]] == ["drop"]
    assert (after["system"], after["delisted"], after["clock_offset_s"], after["armed"]) == ("online", [], 0, [])
    assert (before["seed"], before["count"]) == (3, 4)


BAD = [
    ("nope", "expected a fault (drop, "),
    ("drop:p=2", "drop: p: expected a number from 0 to 1, got '2'"),
    ("drop:p=nan", "drop: p: expected a number from 0 to 1"),
    ("drop:count=0", "drop: count: expected a whole number from 1"),
    ("drop:count=1.5", "drop: count: expected a whole number"),
    ("drop:twice", "expected a fault as name:parameter=value"),
    ("drop:s=3", "drop: expected only at_s, count, fault, for_s, on, p, symbol, got 's'"),
    ("drop:on=Trades", "drop: on: expected one of trade, ohlc, ack"),
    ("throttle:form=polite", "throttle: form: expected one of eapi, "),
    ("delist:symbol=ETH/USDT", "expected faults of BTC/USDT, got 'ETH/USDT'"),
    ('{"fault": "drop", "p": true}', "drop: p: expected a number"),
    ('{"fault": ["drop"]}', "expected a fault"),
    ('{"fault": "drop", "symbol": 3}', "drop: symbol: expected a symbol such as BTC/USDT, got 3"),
    ("[[3]]", "expected faults as objects with the key fault, got 3"),
    ("{", "expected JSON or text such as drop:count=2"),
    ("[" * 100_000, "expected JSON or text such as drop:count=2"),
    ("[" * 900 + "3" + "]" * 900, "expected faults as objects with the key fault, got 3"),
    (b"\xff\xfe", "expected a fault (drop, "),
]


@pytest.mark.parametrize(("body", "message"), BAD)
async def test_a_fault_that_is_not_valid_is_refused_in_one_line_and_none_is_armed(
    kraken: Simulator, http: aiohttp.ClientSession, body: str | bytes, message: str
) -> None:
    status, answer = await post(http, body)

    assert status == 400
    assert message in answer["error"][0]
    assert "\n" not in answer["error"][0]
    assert kraken.director.left() == []


async def test_the_log_is_asked_for_from_a_whole_number_on(http: aiohttp.ClientSession) -> None:
    async with http.get("/control/faults/log?after=x") as response:
        assert response.status == 400


async def test_the_command_takes_text_a_scenario_and_a_seed_and_writes_a_log_that_it_takes_back(tmp_path: Path) -> None:
    scenario, log = tmp_path / "scenario.json", tmp_path / "faults.jsonl"
    scenario.write_text('[{"fault": "throttle", "form": "eapi", "count": 1}]')
    options = ("--scenario", str(scenario), "--fault-seed", "9", "--fault-log", str(log))
    first = await bodies_of("--faults", "empty_body:on=Time", *options)
    again = await bodies_of("--replay-faults", str(log))

    # Time met both faults, in the order of the rules.
    assert first[0] == again[0] == b'{"error":["EAPI:Rate limit exceeded"]}'
    assert b'"online"' in first[1]
    assert b'"online"' in again[1]
    assert [line.fault for line in read_log(log)] == ["empty_body", "throttle"]


async def bodies_of(*arguments: str) -> list[bytes]:
    """What a simulator with these arguments answers to two calls."""
    process = await run("--port", "0", "--paused", *arguments)
    rest = (await listening_line(process)).split()[-1]
    bodies: list[bytes] = []
    async with aiohttp.ClientSession() as http:
        for method in ("Time", "SystemStatus"):
            async with http.get(f"{rest}/{method}") as response:
                bodies.append(await response.read())
    process.terminate()
    _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert errors == b""
    return bodies


@pytest.mark.parametrize(
    "arguments",
    [
        ("--faults", "nope"),
        ("--faults", "drop:symbol=LTC/USD"),
        ("--scenario", "/nonexistent.json"),
        ("--scenario", "pyproject.toml"),
        ("--replay-faults", "/nonexistent.jsonl"),
        ("--replay-faults", "pyproject.toml"),
        ("--fault-log", "/nonexistent/faults.jsonl"),
        ("--fault-seed", "x"),
    ],
)
def test_bad_faults_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["--port", "0", *arguments])
    except SystemExit as exit_:  # argparse leaves this way
        code = exit_.code
    captured = capsys.readouterr()

    assert (code, captured.out) == (2, "")
    assert re.fullmatch(r"simulator: [^\n]+\n", captured.err)


LINE = '{"time":"","s":1,"fault":"delay","point":"frame","subject":"1 trade BTC/USDT","n":3,"args":{"s":0.5},"hit":{}}'


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        LINE[:-1],
        LINE.replace('"delay"', '"nope"'),
        LINE.replace('"frame"', '"answer"'),
        LINE.replace('{"s":0.5}', "{}"),
        LINE.replace("0.5", "-1"),
        LINE.replace("0.5", '"soon"'),
    ],
)
def test_a_log_with_a_line_that_is_no_fault_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "faults.jsonl"
    path.write_text(f"{LINE}\n\n{line}\n")

    with pytest.raises(UsageError, match=r"faults\.jsonl, line 3: .*expected"):
        read_log(path)


def test_a_replay_needs_the_symbols_of_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    line = '{"time":"","s":1,"fault":"delist","point":"second","subject":"","n":3,"args":{"s":5,"symbol":"ETH/USDT"}}'
    path.write_text(line)

    with pytest.raises(UsageError, match="expected faults of BTC/USDT, got 'ETH/USDT'; give the same --symbols"):
        Simulator(symbols=[BTC], recorded_faults=read_log(path))


@pytest.mark.parametrize("fault", KINDS)
def test_every_fault_is_documented_with_its_parameters(fault: str) -> None:
    page = (REPOSITORY / "docs/simulator.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{fault}` |")]

    assert f"| {KINDS[fault].point} |" in row
    assert all(f"`{name}`" in row for name in KINDS[fault].parameters)


@pytest.mark.parametrize("fault", KINDS)
def test_a_rule_is_written_as_it_is_read(fault: str) -> None:
    rule = rule_of({"fault": fault, "p": 0.25, "at_s": 3, "for_s": 7, "count": 9, "symbol": BTC})

    assert rules_of(rule.as_json()) == [rule]


async def test_a_rule_without_limits_is_the_whole_run_from_a_flag_and_once_on_demand() -> None:
    async with Simulator(symbols=[BTC], emitting=False, faults="drop") as kraken, listener(kraken) as client:
        await client.socket.send_json({"method": "subscribe", "params": {"channel": "trade", "symbol": [BTC]}})
        made(kraken, 1, 2, 3)
        await client.hear()
    assert client.ids == []

    async with Simulator(symbols=[BTC], emitting=False) as kraken, listener(kraken, BTC) as client:
        kraken.inject("drop")
        made(kraken, 1, 2, 3)
        await client.hear()
    assert len(client.ids) == 2
    assert [line["n"] for line in lines_of(kraken)] == [1]
