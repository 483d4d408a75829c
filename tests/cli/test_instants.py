"""Times on the terminal."""

from datetime import UTC, datetime, timedelta

import pytest

from kraken_history.cli.instants import MOST_DAYS, instant, parse_instant, range_options
from kraken_history.errors import UsageError

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00", "2026-01-31 12:00:00", "2026-01-31T12:00Z", "2026-01-31T14:00+02"]
)
def test_a_time_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert parse_instant(text) == NOON


def test_a_date_is_its_first_moment() -> None:
    assert parse_instant("2026-01-31") == NOON - timedelta(hours=12)


@pytest.mark.parametrize("text", ["", "noon", "2026-02-30", "0001-01-01T00:00+14:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_instant(text)


def test_a_time_is_written_in_utc_with_a_z() -> None:
    assert instant(NOON) == "2026-01-31T12:00:00Z"
    assert instant(NOON.replace(microsecond=5)) == "2026-01-31T12:00:00.000005Z"


@pytest.mark.parametrize(
    ("word", "moment"),
    [
        ("now", NOON),
        ("today", NOON - timedelta(hours=12)),
        (" Yesterday ", NOON - timedelta(hours=36)),
    ],
)
def test_a_word_stands_for_a_time(word: str, moment: datetime) -> None:
    assert parse_instant(word, lambda: NOON) == moment


def test_days_count_back_from_the_end() -> None:
    assert range_options(None, None, 30, lambda: NOON) == (NOON - timedelta(days=30), None)
    assert range_options(None, "2026-01-10", 2, lambda: NOON) == (
        datetime(2026, 1, 8, tzinfo=UTC),
        datetime(2026, 1, 10, tzinfo=UTC),
    )


def test_days_before_the_end_of_the_calendar_are_a_time_too() -> None:
    start, _ = range_options(None, None, MOST_DAYS, lambda: NOON)

    assert start is not None
    assert start.year == 1971


def test_a_start_and_a_number_of_days_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="expected either --from or --days, got both"):
        range_options("2026-01-01", None, 30)


def test_a_reversed_range_is_refused_with_both_times() -> None:
    with pytest.raises(UsageError, match="--from 2026-01-02T00:00:00Z must be before --to 2026-01-01T00:00:00Z"):
        range_options("2026-01-02", "2026-01-01")
