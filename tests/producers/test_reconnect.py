"""When to connect again, in virtual time."""

import random
from collections.abc import Iterator

import pytest

from producers.reconnect import LONGEST_RETRY_S, RETRIES_AT_ONCE, SLOW_RETRY_S, ask_again_delay_s, reconnect_delay_s

TEN_MINUTES_S = 600.0
BANNED_AT = 150


def delay_s(failures: int, *, in_maintenance: bool = False, seed: int = 0) -> float:
    return reconnect_delay_s(failures, in_maintenance=in_maintenance, rng=random.Random(seed))


def attempts(*, in_maintenance: bool, seed: int, until_s: float) -> Iterator[float]:
    """When a client connects to a server that accepts and drops it at once."""
    rng = random.Random(seed)
    now_s, failures = 0.0, 0
    while now_s < until_s:
        yield now_s
        failures += 1
        now_s += reconnect_delay_s(failures, in_maintenance=in_maintenance, rng=rng)


@pytest.mark.parametrize("seed", range(20))
def test_after_a_random_drop_the_first_retries_come_at_once(seed: int) -> None:
    assert all(delay_s(failures, seed=seed) < 0.5 for failures in range(1, RETRIES_AT_ONCE + 1))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("failures", [RETRIES_AT_ONCE + 1, 10, 1000, 10**9])
def test_after_a_handful_no_retry_comes_within_five_seconds_nor_later_than_a_minute(failures: int, seed: int) -> None:
    assert SLOW_RETRY_S <= delay_s(failures, seed=seed) <= LONGEST_RETRY_S


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("failures", [1, RETRIES_AT_ONCE, RETRIES_AT_ONCE + 1, 10**9])
def test_in_maintenance_no_retry_comes_within_five_seconds_not_even_the_first(failures: int, seed: int) -> None:
    assert SLOW_RETRY_S <= delay_s(failures, in_maintenance=True, seed=seed) <= LONGEST_RETRY_S


def test_many_clients_that_lost_the_same_server_do_not_come_back_together() -> None:
    assert len({delay_s(RETRIES_AT_ONCE + 3, seed=seed) for seed in range(50)}) == 50


@pytest.mark.parametrize("in_maintenance", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_server_that_drops_every_connection_at_once_never_bans_us(seed: int, in_maintenance: bool) -> None:
    times = list(attempts(in_maintenance=in_maintenance, seed=seed, until_s=3 * TEN_MINUTES_S))

    most = max(sum(at <= other < at + TEN_MINUTES_S for other in times) for at in times)
    assert most <= BANNED_AT / 3


def test_a_refused_symbol_is_asked_for_soon_at_first_and_rarely_in_the_end() -> None:
    assert [ask_again_delay_s(times) for times in range(8)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert ask_again_delay_s(10**9) == 300
    assert ask_again_delay_s(0, longest_s=0.1) == 0.1
