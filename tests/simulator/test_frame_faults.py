"""What a client of the WebSocket sees of each fault of frames."""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kraken_history.errors import MalformedMessage
from kraken_history.kraken.websocket import decode_frame
from simulator import Simulator
from simulator.faults.log import read_log
from simulator.faults.rules import rules_of
from tests.simulator.listening import BTC, ETH, Listener, lines_of, listener, made
from tests.support.exchanges import ManualClock


def quiet(*symbols: str, **options: Any) -> Simulator:
    """A simulator that makes trades only on request, with the same times in each run."""
    return Simulator(symbols=symbols or [BTC], emitting=False, clock=ManualClock(), **options)


async def test_without_faults_frames_pass_as_they_were_made() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        ids = made(kraken, 3, 1, 5)
        await client.hear()

    assert client.ids == ids
    assert kraken.director.log.count == 0


async def test_a_dropped_frame_never_comes() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("drop")
        ids = made(kraken, 2, 3, 1)
        await client.hear()

    assert client.ids == ids[1:]
    (line,) = lines_of(kraken)
    assert (line["fault"], line["subject"]) == ("drop", f"1 trade {BTC}")
    assert (line["hit"]["first_id"], line["hit"]["last_id"]) == (ids[0][0], ids[0][-1])


async def test_a_repeated_frame_comes_as_often_as_it_was_told_to() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("repeat:times=2")
        ids = made(kraken, 2, 3)
        await client.hear()

    assert client.ids == [ids[0], ids[0], ids[0], ids[1]]


async def test_a_reordered_frame_comes_behind_later_ones() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("reorder:by=2")
        ids = made(kraken, 1, 2, 3, 4)
        await client.hear()

    assert client.ids == [ids[1], ids[2], ids[0], ids[3]]


async def test_a_reordered_frame_of_a_quiet_symbol_comes_in_the_end() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("reorder:by=50")
        ids = made(kraken, 1)
        await client.hear_frames(1)

    assert client.ids == ids


async def test_a_late_frame_holds_up_those_behind_it_and_their_order_stays() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("delay:s=0.2")
        started = time.monotonic()
        ids = made(kraken, 1, 2, 3)
        await client.hear()
        took_s = time.monotonic() - started

    assert client.ids == ids
    assert took_s >= 0.2


async def test_a_cut_frame_is_not_json() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("truncate:keep=0.7")
        ids = made(kraken, 3, 1)
        await client.hear()

    assert client.ids == ids[1:]
    with pytest.raises(MalformedMessage):
        decode_frame(client.texts[0])


@pytest.mark.parametrize("draw", range(20))
async def test_a_corrupt_frame_is_never_a_wrong_trade(draw: int) -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject(f"corrupt:draw={draw}")
        ids = made(kraken, 3, 1)
        await client.hear()

    assert len(client.texts) == 2
    assert client.ids == ids[1:]


async def test_a_frame_that_is_not_utf8_makes_a_client_hang_up() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("corrupt:form=bytes")
        made(kraken, 3)
        kind, _ = await client.end()

    assert kind in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR)


async def test_a_split_frame_comes_in_two_and_one_of_a_single_trade_cannot_be_split() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("split:at=0.4")
        ids = made(kraken, 1, 6)
        await client.hear()

    assert client.ids == [ids[0], ids[1][:3], ids[1][3:]]


async def test_merged_frames_come_as_one_with_every_digit() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as plain, listener(kraken, BTC) as client:
        kraken.inject({"fault": "merge", "p": 1})
        ids = made(kraken, 2, 3)
        await client.hear_frames(1)
        await plain.hear_frames(1)

    assert client.ids == [ids[0] + ids[1]]
    assert client.texts == plain.texts


async def test_merging_keeps_symbols_apart() -> None:
    async with quiet(BTC, ETH) as kraken, listener(kraken, BTC, ETH) as client:
        kraken.inject("merge:count=2")
        batches = [kraken.emit(40), kraken.emit(40)]
        await client.hear()

    merged = {symbol: [trade.id for batch in batches for trade in batch[symbol]] for symbol in (BTC, ETH)}
    assert sorted(client.ids) == sorted(merged.values())


async def test_an_acknowledgement_is_late_and_the_trades_are_not() -> None:
    async with quiet() as kraken, listener(kraken) as client:
        kraken.inject("late_ack:s=3600")
        await client.subscribe(BTC)
        ids = made(kraken, 2)
        await client.hear()

    assert client.ids == ids
    assert client.accepted == []


async def test_an_omitted_trade_is_in_no_frame_of_any_connection_but_in_rest() -> None:
    async with quiet() as kraken, listener(kraken, BTC) as client:
        kraken.inject("omit")
        ids = made(kraken, 3, 2)
        await client.hear()
        async with listener(kraken) as later:
            await later.socket.send_json({"method": "subscribe", "params": {"channel": "trade", "symbol": [BTC]}})
            await later.hear()
        page = kraken.rest.answer("Trades", {"pair": "XBTUSDT"}, "")

    omitted = ids[0][0]
    assert client.ids == [ids[0][1:], ids[1]]
    assert later.ids == [[*ids[0][1:], *ids[1]]]
    assert str(omitted).encode() in page
    assert [line["hit"] for line in lines_of(kraken)] == [{"symbol": BTC, "id": omitted}]


async def test_one_refusal_is_of_one_symbol_and_passes() -> None:
    async with quiet(BTC, ETH) as kraken, listener(kraken) as client:
        kraken.inject(f"refuse:symbol={ETH}")
        for _ in range(2):
            await client.socket.send_json({"method": "subscribe", "params": {"channel": "trade", "symbol": [BTC, ETH]}})
        await client.hear()

    refused = [text for text in client.texts if '"error":"Currency pair not supported ETH/USDT"' in text]
    assert len(refused) == 1
    assert client.accepted == [BTC, ETH]


async def test_a_handshake_gets_an_error_of_http() -> None:
    async with quiet() as kraken, aiohttp.ClientSession() as http:
        kraken.inject("handshake:status=503")
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(kraken.ws_url)
        async with http.ws_connect(kraken.ws_url) as socket:
            await socket.receive_str(timeout=5)

    assert caught.value.status == 503


MIXED = "drop:p=0.1;repeat:p=0.1;split:p=0.2;truncate:p=0.1;corrupt:p=0.1;omit:p=0.05;refuse:p=0.2"


async def run_mixed(seed: int, **options: Any) -> tuple[list[Any], list[str]]:
    """One client and the same trades; what struck, and what the client received."""
    async with quiet(BTC, ETH, fault_seed=seed, **options) as kraken:
        async with listener(kraken) as client:
            await _subscribe_until_accepted(client)
            for count in (3, 8, 1, 20, 2, 9, 9, 4, 30, 2, 2, 5):
                kraken.emit(count)
            await client.hear()
        return lines_of(kraken), [text for text in client.texts if '"time_in"' not in text]


async def _subscribe_until_accepted(client: Listener) -> None:
    while not {BTC, ETH} <= set(client.accepted):
        await client.socket.send_json({"method": "subscribe", "params": {"channel": "trade", "symbol": [BTC, ETH]}})
        await client.hear()


async def test_the_same_seed_gives_the_same_faults_and_frames() -> None:
    first, again, other = [await run_mixed(seed, faults=MIXED) for seed in (5, 5, 6)]

    assert first == again
    assert len({line["fault"] for line in first[0]}) >= 5
    assert other[0] != first[0]


async def test_a_log_that_is_given_back_gives_the_same_faults_and_frames(tmp_path: Path) -> None:
    path, second = tmp_path / "faults.jsonl", tmp_path / "again.jsonl"
    first = await run_mixed(5, faults=MIXED, fault_log=path)
    again = await run_mixed(77, recorded_faults=read_log(path), fault_log=second)

    assert again == first
    assert len(read_log(path)) == len(first[0])
    assert [line.strike for line in read_log(second)] == [line.strike for line in read_log(path)]


async def test_faults_that_were_struck_on_demand_are_replayed_too(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    async with quiet(fault_log=path) as kraken, listener(kraken, BTC) as client:
        made(kraken, 1, 2)
        kraken.inject("drop")
        first = made(kraken, 3, 4)
        await client.hear()
        heard = client.ids
    async with quiet(recorded_faults=read_log(path)) as kraken, listener(kraken, BTC) as client:
        made(kraken, 1, 2)
        assert made(kraken, 3, 4) == first
        await client.hear()

    assert client.ids == heard
    assert len(heard) == 3


async def test_a_frame_that_waits_counts_against_the_clients_queue() -> None:
    async with quiet(max_queued_bytes=20_000) as kraken, listener(kraken, BTC) as client:
        kraken.inject({"fault": "delay", "s": 3600})
        while kraken.hub.clients:
            kraken.emit(20)
            await asyncio.sleep(0)
        await client.end()

    assert kraken.hub.dropped_for_slowness == 1


def test_the_text_of_a_rule_and_its_json_are_the_same_rule() -> None:
    assert rules_of("delay:p=0.5,s=2,symbol=BTC/USDT") == rules_of(
        [{"fault": "delay", "p": 0.5, "s": 2, "symbol": "BTC/USDT"}]
    )
