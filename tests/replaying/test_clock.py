"""The time of a replay."""

from replaying.clock import ReplayClock
from simulator.notation import NS


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_stands_still_until_it_runs_then_runs_at_its_speed() -> None:
    seconds = Seconds()
    clock = ReplayClock(1_000 * NS, 10.0, seconds)

    seconds.now = 5.0
    assert clock() == 1_000 * NS
    clock.run()
    seconds.now = 7.5

    assert clock() == 1_025 * NS
    assert clock.seconds_until(1_035 * NS) == 1.0
    assert clock.seconds_until(1_000 * NS) == 0.0


def test_a_stop_costs_no_time() -> None:
    seconds = Seconds()
    clock = ReplayClock(0, 2.0, seconds)
    clock.run()
    seconds.now = 1.0
    clock.stop()
    seconds.now = 100.0
    clock.run()
    seconds.now = 101.0

    assert clock() == 4 * NS


def test_without_a_speed_it_follows_the_trades_and_never_goes_back() -> None:
    seconds = Seconds()
    clock = ReplayClock(7 * NS, None, seconds)
    clock.run()
    seconds.now = 60.0

    assert clock() == 7 * NS
    clock.advance(9 * NS)
    clock.advance(8 * NS)

    assert clock() == 9 * NS
    assert clock.seconds_until(100 * NS) == 0.0


def test_with_a_speed_trades_do_not_move_it() -> None:
    clock = ReplayClock(7 * NS, 1.0, Seconds())

    clock.advance(9 * NS)

    assert clock() == 7 * NS
