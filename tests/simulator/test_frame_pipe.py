"""The way of frames through the faults, with time as an argument."""

import itertools

import pytest

from simulator.exchange import Exchange
from simulator.faults.director import Director
from simulator.faults.frames import LONGEST_HOLD_S, FramePipe, address_of, read_frame
from simulator.faults.kinds import KINDS
from simulator.faults.rules import rules_of
from simulator.frames import HEARTBEAT, pong, refused, status, subscribed, trade_frames
from tests.simulator.listening import BTC, ETH
from tests.support.exchanges import seeded_exchange

ACK = subscribed("trade", BTC, 0, snapshot=True, req_id=1, times=(0, 0))


@pytest.fixture
def exchange() -> Exchange:
    return seeded_exchange(symbols=[BTC])


def frame(exchange: Exchange, count: int) -> bytes:
    (text,) = trade_frames(exchange.books[BTC], exchange.emit(count)[BTC])
    return text


def pipe(faults: object = "", *, connection: int = 1, seed: int = 0) -> FramePipe:
    director = Director([BTC, ETH], rules=rules_of(faults), seed=seed, clock=lambda: 0.0)
    return FramePipe(director, connection)


def test_a_frame_without_a_fault_is_due_at_once(exchange: Exchange) -> None:
    way, text = pipe(), frame(exchange, 3)
    way.push(text, 5.0)

    assert way.take(5.0) == [text]
    assert (way.due_in_s(5.0), way.waiting_bytes) == (None, 0)


def test_a_late_acknowledgement_is_due_after_its_time_and_holds_nothing_up(exchange: Exchange) -> None:
    way, text = pipe("late_ack:s=2"), frame(exchange, 3)
    way.push(ACK, 0.0)
    way.push(text, 0.5)

    assert way.take(0.5) == [text]
    assert way.due_in_s(0.5) == 1.5
    assert way.take(1.9) == []
    assert way.take(2.0) == [ACK]


def test_a_delay_holds_up_everything_behind_it_in_order(exchange: Exchange) -> None:
    way, texts = pipe("delay:s=2,count=1"), [frame(exchange, n) for n in (1, 2, 3)]
    for at, text in enumerate(texts):
        way.push(text, float(at) / 10)
    way.push(ACK, 0.5)

    assert way.take(1.9) == []
    assert way.waiting_bytes == sum(map(len, [*texts, ACK]))
    assert way.take(2.0) == [*texts, ACK]
    assert way.waiting_bytes == 0


def test_a_frame_that_waits_for_others_waits_a_bounded_time(exchange: Exchange) -> None:
    for fault in ("merge:count=1", "reorder:by=9,count=1"):
        way, text = pipe(fault), frame(exchange, 2)
        way.push(text, 1.0)

        assert way.take(1.0) == []
        assert way.due_in_s(1.0) == LONGEST_HOLD_S
        assert way.take(1.0 + LONGEST_HOLD_S) == [text]
        assert way.waiting_bytes == 0


def test_merged_frames_have_the_rows_of_both_with_every_digit(exchange: Exchange) -> None:
    trades = exchange.emit(7)[BTC]
    (whole,) = trade_frames(exchange.books[BTC], trades)
    parts = [trade_frames(exchange.books[BTC], trades[a:b])[0] for a, b in ((0, 2), (2, 7))]
    way = pipe("merge:count=1")
    for part in parts:
        way.push(part, 0.0)

    assert way.take(0.0) == [whole]


def test_an_update_is_never_merged_with_a_snapshot(exchange: Exchange) -> None:
    trades = exchange.emit(4)[BTC]
    (snapshot,) = trade_frames(exchange.books[BTC], trades, is_snapshot=True)
    way, update = pipe("merge:count=1"), frame(exchange, 2)
    way.push(snapshot, 0.0)
    way.push(update, 0.0)

    assert way.take(LONGEST_HOLD_S) == [update, snapshot]


def test_faults_compose(exchange: Exchange) -> None:
    """Split in two, each of them twice, and all behind the next frame."""
    way, first, second = pipe("split:at=0,count=1;repeat:count=1;reorder:by=1,count=1"), frame(exchange, 2), b""
    way.push(first, 0.0)
    second = frame(exchange, 1)
    way.push(second, 0.0)
    came = way.take(0.0)

    assert came[0] == second
    rows = [read_frame(text, *address_of(text)).content for text in came[1:]]
    ids = [content.ids for content in rows if content is not None]
    assert ids == [ids[0], ids[0], ids[2], ids[2]]
    assert ids[2][0] == ids[0][0] + 1


def test_what_strikes_a_connection_does_not_depend_on_the_others(exchange: Exchange) -> None:
    director = Director([BTC], rules=rules_of("drop:p=0.3"), seed=4, clock=lambda: 0.0)
    texts = [frame(exchange, 1) for _ in range(100)]
    first, second = FramePipe(director, 1), FramePipe(director, 2)
    came: list[list[bytes]] = [[], []]
    for text in texts:
        for way, into in ((first, came[0]), (second, came[1])):
            way.push(text, 0.0)
            into += way.take(0.0)
    alone = pipe("drop:p=0.3", connection=2, seed=4)
    for text in texts:
        alone.push(text, 0.0)

    assert alone.take(0.0) == came[1]
    assert came[0] != came[1]
    assert 50 <= len(came[0]) <= 90


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (ACK, ("ack", BTC)),
        (refused("no", "subscribe", ETH, req_id=1, times=(0, 0)), ("ack", ETH)),
        (pong(req_id=1, times=(0, 0)), ("pong", "")),
        (status(2**64 - 1), ("status", "")),
        (HEARTBEAT, ("heartbeat", "")),
        (b'{"channel":"trade","type":"snapshot","data":[]}', ("trade", "")),
    ],
)
def test_the_address_of_a_frame(text: bytes, address: tuple[str, str]) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("fault", [name for name, kind in KINDS.items() if kind.point == "frame"])
def test_every_fault_of_frames_strikes_whatever_it_draws(fault: str, exchange: Exchange) -> None:
    """No draw makes a fault fail, and none leaves bytes behind."""
    for seed, count in itertools.product(range(20), (1, 2, 30)):
        way = pipe(fault, seed=seed)
        for at in range(5):
            way.push(frame(exchange, count), float(at))
            way.push(ACK, float(at))
        way.take(1e6)

        assert (way.due_in_s(1e6), way.waiting_bytes) == (None, 0)
