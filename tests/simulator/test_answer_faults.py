"""What a client of REST sees of each fault of answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from simulator import Simulator
from simulator.faults.answers import Answer, AnswerFaults
from simulator.faults.director import Director
from simulator.faults.kinds import KINDS
from simulator.faults.rules import rules_of
from tests.simulator.listening import BTC, lines_of

TRADES = "/0/public/Trades?pair=XBTUSDT"


@pytest.fixture
async def kraken() -> AsyncIterator[Simulator]:
    async with Simulator(symbols=[BTC], emitting=False, history=2_500) as kraken:
        yield kraken


@pytest.fixture
async def http(kraken: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(kraken.rest_url) as http:
        yield http


async def get(http: aiohttp.ClientSession, since: int | str = 0) -> Any:
    async with http.get(f"{TRADES}&since={since}") as response:
        return json.loads(await response.read())


async def latest(http: aiohttp.ClientSession) -> list[int]:
    async with http.get(TRADES) as response:
        return ids(json.loads(await response.read()))


def ids(answer: Any) -> list[int]:
    (rows,) = (rows for key, rows in answer["result"].items() if key != "last")
    return [row[-1] for row in rows]


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ("eapi", "EAPI:Rate limit exceeded"),
        ("egeneral", "EGeneral:Too many requests"),
        ("lockout", "EGeneral:Temporary lockout"),
    ],
)
async def test_throttling_is_http_200_with_an_error(
    kraken: Simulator, http: aiohttp.ClientSession, form: str, error: str
) -> None:
    kraken.inject(f"throttle:form={form}")

    assert await get(http) == {"error": [error]}
    assert (await get(http))["error"] == []


async def test_throttling_with_a_time_names_a_second_in_the_future(
    kraken: Simulator, http: aiohttp.ClientSession
) -> None:
    kraken.inject("throttle:form=eservice,s=30")
    (error,) = (await get(http))["error"]

    words = error.split()
    assert words[:1] == ["EService:Throttled:"]
    assert 25 < int(words[1]) - time.time() <= 30


async def test_throttling_as_http_429_names_the_seconds_to_wait(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject("throttle:form=http429,s=7")
    async with http.get(TRADES) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")


async def test_throttling_as_a_page_of_the_proxy_is_html(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject("throttle:form=http520")
    async with http.get(TRADES) as response:
        assert (response.status, response.content_type) == (520, "text/html")
        assert (await response.text()).startswith("<!DOCTYPE html>")


async def test_a_form_that_is_not_named_is_drawn_and_is_no_lockout_of_fifteen_minutes(
    kraken: Simulator, http: aiohttp.ClientSession
) -> None:
    kraken.inject({"fault": "throttle", "count": 24})
    for _ in range(24):
        async with http.get("/0/public/Time") as response:
            await response.read()

    forms = {line["args"]["form"] for line in lines_of(kraken)}
    assert forms == {"eapi", "egeneral", "eservice", "http429", "http520"}


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ("unavailable", "EService:Unavailable"),
        ("busy", "EService:Busy"),
        ("timeout", "EService:Timeout"),
        ("internal", "EGeneral:Internal error"),
    ],
)
async def test_an_error_passes(kraken: Simulator, http: aiohttp.ClientSession, form: str, error: str) -> None:
    kraken.inject(f"error:form={form}")

    assert await get(http) == {"error": [error]}
    assert len(ids(await get(http))) == 1000


async def test_an_answer_that_never_comes_ends_with_the_clients_patience(
    kraken: Simulator, http: aiohttp.ClientSession
) -> None:
    kraken.inject("timeout")
    with pytest.raises(asyncio.TimeoutError):
        await http.get(TRADES, timeout=aiohttp.ClientTimeout(total=0.1))


async def test_an_answer_that_never_comes_ends_at_last_with_the_connection(kraken: Simulator) -> None:
    """Seen without aiohttp, which repeats a call by itself if the connection ends before its answer begins."""
    kraken.inject("timeout:s=0.05")
    reader, writer = await asyncio.open_connection(kraken.host, kraken.port)
    writer.write(f"GET {TRADES} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_a_slow_answer_is_whole(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject("slow:s=0.2")
    started = time.monotonic()

    assert len(ids(await get(http))) == 1000
    assert time.monotonic() - started >= 0.2


async def test_a_body_can_be_cut_with_its_message(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject("cut_body:form=http,keep=0.5")
    with pytest.raises(aiohttp.ClientPayloadError):
        await get(http)


async def test_a_body_can_be_cut_inside_a_whole_message(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject("cut_body:form=json,keep=0.5")
    async with http.get(TRADES) as response:
        body = await response.read()

    assert response.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


async def test_a_body_can_be_empty(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject("empty_body")
    async with http.get(TRADES) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_stuck_page_is_the_page_before(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    first = await get(http)
    kraken.inject("stuck_page")
    stuck = await get(http, first["result"]["last"])
    second = await get(http, first["result"]["last"])

    assert stuck == first
    assert ids(first)[-1] in ids(second)
    assert ids(second)[-1] > ids(first)[-1]


async def test_a_first_page_is_stuck_by_its_cursor(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject("stuck_page")
    stuck = await get(http, 17)

    assert len(ids(stuck)) == 1000
    assert stuck["result"]["last"] == "17"


async def test_rows_are_missing_inside_a_page_and_never_at_its_ends(
    kraken: Simulator, http: aiohttp.ClientSession
) -> None:
    whole = await get(http)
    kraken.inject("omit_rows:n=4")
    holed = await get(http)

    assert len(ids(holed)) == 996
    assert (ids(holed)[0], ids(holed)[-1]) == (ids(whole)[0], ids(whole)[-1])
    assert holed["result"]["last"] == whole["result"]["last"]


async def test_a_rule_can_select_the_method(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject({"fault": "empty_body", "on": "SystemStatus", "p": 1})
    async with http.get("/0/public/SystemStatus") as response:
        assert await response.read() == b""

    assert len(ids(await get(http))) == 1000


async def test_ids_can_truly_not_exist(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    kraken.inject(f"skip_ids:symbol={BTC},n=5")
    kraken.emit(40)  # the rest of an order has its ids already
    shown = await latest(http)

    steps = [later - earlier for earlier, later in pairwise(shown)]
    assert sorted(set(steps)) == [1, 6]
    assert steps.count(6) == 1


async def test_a_busted_trade_is_in_no_page_any_more(kraken: Simulator, http: aiohttp.ClientSession) -> None:
    newest = kraken.exchange.tapes[BTC].last_id
    assert (await latest(http))[-1] == newest
    kraken.inject(f"bust:symbol={BTC}")
    since = kraken.exchange.tapes[BTC].latest(10)[0].time_ns
    after = await get(http, since)

    assert newest not in ids(after)
    assert len(ids(after)) >= 9
    assert len(await latest(http)) == 1000
    (line,) = lines_of(kraken)
    assert line["args"] == {"id": newest, "symbol": BTC}


BODIES = {
    "an error": b'{"error":["EQuery:Unknown asset pair"]}',
    "an empty page": b'{"error":[],"result":{"XBTUSDT":[],"last":"0"}}',
    "a row": b'{"error":[],"result":{"XBTUSDT":[["1.0","1.0",1.0,"b","l","",1]],"last":"1000000000"}}',
    "three rows": b'{"error":[],"result":{"XBTUSDT":[[1],[2],[3]],"last":"1000000000"}}',
    "no page": b'{"error":[],"result":{"status":"online"}}',
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("fault", [name for name, kind in KINDS.items() if kind.point == "answer"])
def test_every_fault_of_answers_takes_any_answer_whatever_it_draws(fault: str, body: str) -> None:
    for seed in range(20):
        director = Director([BTC], rules=rules_of(fault), seed=seed, clock=lambda: 0.0)
        faults = AnswerFaults(director)
        for method in ("Trades", "SystemStatus"):
            answer = faults.struck(method, BTC, "0", BODIES[body], 0.0)
            struck = director.log.after(0)

            assert (answer != Answer(BODIES[body])) >= (fault in ("throttle", "error", "timeout", "slow", "empty_body"))
            assert answer.sent is None or answer.sent < len(BODIES[body])
            assert all(line.fault == fault for line in struck)
