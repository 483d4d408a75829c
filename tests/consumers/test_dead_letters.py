"""Dead letters: kept with their reason, bounded, listed, replayed."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from kraken_history.errors import MalformedMessage
from kraken_history.records import RefusedTrade, UnreadableRow
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import LARGEST_FIELD, REST, WEBSOCKET, DeadLetter, DeadLetters
from tests.support.records import trade, trades

STREAM = wire.trades_stream(0)
ROW = {
    "symbol": "BTC/USDT",
    "side": "buy",
    "price": 105433.6,
    "qty": 0.5,
    "ord_type": "limit",
    "trade_id": 7,
    "timestamp": "2025-11-10T12:00:00.123456Z",
}


@pytest.fixture
async def redis() -> AsyncIterator[FakeAsyncRedis]:
    async with FakeAsyncRedis() as redis:
        yield redis


async def all_of(dead_letters: DeadLetters) -> list[DeadLetter]:
    return [letter async for letter in dead_letters.list()]


async def test_a_letter_keeps_the_entry_its_origin_and_the_reason(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    assert await dead_letters.put(STREAM, "5-1", "no trades", {b"v": b"9", b"d": b"\xff\x00", b"reason": b"mine"})
    (letter,) = await all_of(dead_letters)

    assert (letter.origin, letter.origin_id, letter.reason) == (STREAM, "5-1", "no trades")
    assert letter.fields == {b"v": b"9", b"d": b"\xff\x00", b"reason": b"mine"}
    assert abs(letter.died_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_letters_are_listed_page_by_page_oldest_first(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=1000)
    for n in range(250):
        await dead_letters.put(STREAM, f"{n}-0", "no trades", {b"n": str(n).encode()})

    assert [letter.origin_id for letter in await all_of(dead_letters)] == [f"{n}-0" for n in range(250)]


async def test_past_the_bound_letters_are_not_kept(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=3)
    kept = [await dead_letters.put(STREAM, f"{n}-0", "no trades", {b"a": b"b"}) for n in range(5)]

    assert kept == [True, True, True, False, False]
    assert [letter.origin_id for letter in await all_of(dead_letters)] == ["0-0", "1-0", "2-0"]


async def test_a_reason_of_any_length_and_letters_is_kept_as_far_as_it_goes(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    await dead_letters.put(STREAM, "1-0", "long " * 1000, {b"a": b"b"})
    await dead_letters.put_frame(MalformedMessage("half a letter: \ud800", b"\xff"))
    letters = await all_of(dead_letters)

    assert letters[0].reason.startswith("long long")
    assert len(letters[0].reason) == 1000
    assert letters[1].reason.startswith("half a letter: ")


async def test_of_an_absurdly_large_entry_only_the_beginning_is_kept_and_its_reason_says_so(
    redis: FakeAsyncRedis,
) -> None:
    """A client that writes into a stream could otherwise fill Redis twice over."""
    dead_letters = DeadLetters(redis, max_letters=10)
    await dead_letters.put(STREAM, "1-0", "no trades", {b"d": b"x" * (LARGEST_FIELD + 5), b"v": b"1"})
    (letter,) = await all_of(dead_letters)

    assert {name: len(value) for name, value in letter.fields.items()} == {b"d": LARGEST_FIELD, b"v": 1}
    assert letter.reason == f"of these fields only {LARGEST_FIELD} bytes are kept: d {LARGEST_FIELD + 5}; no trades"


async def test_an_entry_is_replayed_into_its_stream_as_it_was(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    entry = {bytes(name): bytes(value) for name, value in wire.encode(trades(range(3))).items()}
    await dead_letters.put(STREAM, "1-0", "the database refused it", entry)
    await dead_letters.put(STREAM, "2-0", "another", {b"a": b"b"})
    first, second = await all_of(dead_letters)
    await dead_letters.replay(first, shards=1)

    ((_, fields),) = await redis.xrange(STREAM)
    assert fields == entry
    assert await all_of(dead_letters) == [second]


async def test_a_frame_is_replayed_through_the_decoder_into_the_streams_of_its_symbols(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    rows = [ROW, {**ROW, "symbol": "ETH/USDT"}, {**ROW, "trade_id": 8}]
    frame = json.dumps({"channel": "trade", "type": "update", "data": rows}).encode()
    await dead_letters.put_frame(MalformedMessage("an older decoder did not know it", frame))
    (letter,) = await all_of(dead_letters)
    assert letter.origin == WEBSOCKET
    await dead_letters.replay(letter, shards=4)

    replayed: dict[str, list[int]] = {}
    for shard in range(4):
        for _, fields in await redis.xrange(wire.trades_stream(shard)):
            for found in wire.decode_trades(fields):
                assert wire.shard_of(found.symbol, 4) == shard
                replayed.setdefault(found.symbol, []).append(found.id)
    assert replayed == {"BTC/USDT": [7, 8], "ETH/USDT": [7]}
    assert await all_of(dead_letters) == []


async def test_a_frame_of_candles_is_replayed_too_without_those_of_other_intervals(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    row: dict[str, Any] = {"symbol": "BTC/USDT", "open": 2, "high": 3, "low": 1, "close": 2, "trades": 4, "volume": 5}
    row |= {"vwap": 2, "interval_begin": "2025-11-10T12:00:00Z", "interval": 1}
    frame = json.dumps({"channel": "ohlc", "type": "update", "data": [row, {**row, "interval": 5}]}).encode()
    await dead_letters.put_frame(MalformedMessage("an older decoder did not know it", frame))
    await dead_letters.replay((await all_of(dead_letters))[0], shards=1)

    ((_, fields),) = await redis.xrange(wire.candles_stream(0))
    assert [candle.trade_count for candle in wire.decode_candles(fields)] == [4]


async def test_a_frame_that_still_cannot_be_decoded_is_kept(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    await dead_letters.put_frame(MalformedMessage("no JSON", b"\xff"))
    (letter,) = await all_of(dead_letters)
    with pytest.raises(MalformedMessage):
        await dead_letters.replay(letter, shards=1)

    assert await all_of(dead_letters) == [letter]


async def test_a_letter_replayed_twice_makes_two_entries_which_the_ledger_forgives(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    await dead_letters.put(STREAM, "1-0", "another", {k: v for k, v in wire.encode([trade(1)]).items()})
    (letter,) = await all_of(dead_letters)
    await dead_letters.replay(letter, shards=1)
    await dead_letters.replay(letter, shards=1)

    assert await redis.xlen(STREAM) == 2


async def test_a_row_that_is_refused_by_now_stays_a_letter_and_the_good_rows_go_on(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    rows = [ROW, {**ROW, "trade_id": 8, "qty": 0}]
    frame = json.dumps({"channel": "trade", "type": "update", "data": rows}).encode()
    await dead_letters.put_frame(MalformedMessage("an older decoder kept whole frames", frame))
    await dead_letters.replay((await all_of(dead_letters))[0], shards=1)

    ((_, fields),) = await redis.xrange(STREAM)
    entry = wire.decode_trades_entry(fields)
    assert ([trade.id for trade in entry.trades], [trade.id for trade in entry.refused]) == ([7], [8])
    (letter,) = await all_of(dead_letters)
    assert json.loads(letter.fields[b"frame"])["data"] == [rows[1]]
    with pytest.raises(MalformedMessage, match="positive price and volume"):
        await dead_letters.replay(letter, shards=1)
    assert await all_of(dead_letters) == [letter]


async def test_a_row_of_a_page_is_replayed_once_it_is_valid(redis: FakeAsyncRedis) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    good, bad = '["1.50","2",1762776000.5,"b","l","",7]', '["1.50","0",1762776000.5,"b","l","",8]'
    refused = [RefusedTrade(id_, "BTC/USDT", None, "no", row) for id_, row in ((7, good), (8, bad))]
    await dead_letters.put_rows_of_pages(refused)
    first, second = await all_of(dead_letters)

    await dead_letters.replay(first, shards=1)
    with pytest.raises(MalformedMessage, match="positive price and volume"):
        await dead_letters.replay(second, shards=1)

    assert (first.origin, first.origin_id) == (REST, "7")
    ((_, fields),) = await redis.xrange(STREAM)
    (stored,) = wire.decode_trades(fields)
    assert (stored.id, str(stored.price)) == (7, "1.5")
    assert await all_of(dead_letters) == [second]


async def test_a_row_without_a_readable_id_becomes_one_letter_however_often_its_page_comes(
    redis: FakeAsyncRedis,
) -> None:
    dead_letters = DeadLetters(redis, max_letters=10)
    rows = [UnreadableRow(symbol, "expected a trade id, got 'five'", '["1","2",3,"b","l","","five"]')
            for symbol in ("BTC/USDT", "ETH/USDT")]  # fmt: skip

    for _ in range(3):
        await dead_letters.put_unreadable(rows)

    letters = await all_of(dead_letters)
    assert [(letter.origin, letter.reason, letter.fields[b"symbol"]) for letter in letters] == [
        (REST, rows[0].reason, b"BTC/USDT"),
        (REST, rows[0].reason, b"ETH/USDT"),
    ]
    with pytest.raises(MalformedMessage, match="five"):
        await dead_letters.replay(letters[0], shards=1)
    assert len(await all_of(dead_letters)) == 2


async def test_a_row_that_was_not_kept_is_offered_again(redis: FakeAsyncRedis) -> None:
    row = UnreadableRow("BTC/USDT", "expected a trade id, got None", "[]")

    await DeadLetters(redis, max_letters=0).put_unreadable([row])
    await DeadLetters(redis, max_letters=1).put_unreadable([row])

    assert len(await all_of(DeadLetters(redis, max_letters=1))) == 1
