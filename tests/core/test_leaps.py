"""Ids that leap absurdly far."""

from datetime import UTC, datetime, timedelta

import pytest

from kraken_history.leaps import AT_ONCE, MOST, PER_SECOND, KnownTrade, NewestIds, leaps

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
KNOWN = KnownTrade(109_116_693, NOON)
YEAR_S = 365 * 24 * 3600


@pytest.mark.parametrize(
    ("ahead", "seconds", "expected"),
    [
        (1, 0, False),
        (AT_ONCE, 0, False),
        (AT_ONCE + 1, 0, True),
        (-AT_ONCE - 1, 0, True),
        (AT_ONCE + 60 * PER_SECOND, 60, False),
        (AT_ONCE + 60 * PER_SECOND + 1, 60, True),
        (-AT_ONCE - 60 * PER_SECOND, -60, False),
        (300_000, 24 * 3600, False),  # a day without any feed, on the busiest of days
        (109_116_693, 12 * YEAR_S, False),  # everything that the busiest pair has ever traded
        (MOST + 1, 200 * YEAR_S, True),
        (2**62, 200 * YEAR_S, True),
    ],
)
def test_an_id_leaps_if_nobody_can_have_traded_so_often_in_between(ahead: int, seconds: int, expected: bool) -> None:
    assert leaps(KNOWN.id + ahead, NOON + timedelta(seconds=seconds), known=KNOWN) is expected


@pytest.mark.parametrize(("trade_id", "expected"), [(1, False), (109_116_693, False), (2**62, True)])
def test_the_first_trade_of_a_symbol_may_have_any_id_that_a_pair_can_have(trade_id: int, expected: bool) -> None:
    assert leaps(trade_id, NOON, known=None) is expected


def note(newest: NewestIds, *ids: int) -> dict[str, int]:
    for trade_id in ids:
        newest.note("BTC/USD", trade_id, NOON)
    return newest.by_symbol


def test_the_newest_id_of_a_symbol_does_not_leap() -> None:
    # Once a trade of id 2^62 had come, a producer reported 4.6e18 trades that were not stored, for ever.
    assert note(NewestIds(), 10, 11, 2**62, 12, 9) == {"BTC/USD": 12}
    assert note(NewestIds(), 2**62, 2**62) == {}


def test_a_second_trade_confirms_a_leap() -> None:
    newest = NewestIds()

    assert note(newest, 10, 5_000_002, 5_000_001) == {"BTC/USD": 5_000_002}
    assert note(newest, 5_000_003) == {"BTC/USD": 5_000_003}
