"""Where trades get their times, and how they are kept."""

from itertools import pairwise

from simulator.notation import NS
from simulator.tape import TapeTrade
from tests.support.exchanges import NOON_NS, ManualClock, identities, seeded_exchange


def all_trades(batch_or_tapes: object) -> list[TapeTrade]:
    assert isinstance(batch_or_tapes, dict)
    return [trade for tape in batch_or_tapes.values() for trade in tape.trades(0, len(tape))]


def test_timing_does_not_change_what_is_traded() -> None:
    slow_clock = ManualClock()
    slow = seeded_exchange(slow_clock)
    slow.emit_history(100, hours=1)
    for _ in range(200):
        slow.emit(1, spread_ns=1000)
        slow_clock.advance(3.3)
    at_once = seeded_exchange()
    at_once.emit(300)

    assert identities(all_trades(slow.tapes)) == identities(all_trades(at_once.tapes))


def test_times_never_fall_even_if_the_clock_does() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    exchange.emit_history(50, hours=1)
    for step in (1.0, -5.0, 0.001, 10.0):
        exchange.emit(20, spread_ns=10_000_000)
        clock.advance(step)
    times = [trade.time_ns for trade in all_trades(exchange.tapes)]

    assert all(earlier <= later for earlier, later in pairwise(times))


def test_trades_made_now_carry_the_present_time() -> None:
    exchange = seeded_exchange()
    batch = exchange.emit(100)

    assert all(NOON_NS <= trade.time_ns < NOON_NS + 1_000_000 for of_book in batch.values() for trade in of_book)


def test_an_order_shares_one_time_and_whole_orders_are_never_cut() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    for _ in range(100):
        exchange.emit(1, whole_orders=True)
        clock.advance(0.01)
    times = [trade.time_ns for trade in all_trades(exchange.tapes)]

    assert len(set(times)) == 100 < len(times)


def test_history_is_spread_over_the_hours_before_now() -> None:
    exchange = seeded_exchange()
    exchange.emit_history(2000, hours=6)
    times = sorted(trade.time_ns for trade in all_trades(exchange.tapes))

    assert exchange.emitted == len(times) == 2000
    assert NOON_NS - 6 * 3600 * NS <= times[0] < NOON_NS - 5.5 * 3600 * NS
    assert NOON_NS - 0.5 * 3600 * NS < times[-1] < NOON_NS
    assert abs(times[1000] - (NOON_NS - 3 * 3600 * NS)) < 0.5 * 3600 * NS


def test_longer_candles_are_the_same_whether_kept_up_to_date_or_merged_later() -> None:
    clock = ManualClock()
    exchange = seeded_exchange(clock, symbols=["BTC/USDT"])
    exchange.emit_history(500, hours=3)
    tape = exchange.tapes["BTC/USDT"]
    kept = tape.candles(15)
    for _ in range(50):
        exchange.emit(5)
        clock.advance(60)
    merged = tape.candles(1).merged(15)

    def rows(series: object) -> list[tuple[int, ...]]:
        return [
            (one.begin_s, one.open, one.high, one.low, one.close, one.volume, one.quote, one.count)
            for one in series.all()  # type: ignore[attr-defined]
        ]

    assert rows(kept) == rows(merged)
    assert sum(candle.count for candle in kept.all()) == len(tape)
