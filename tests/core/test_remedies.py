"""Commands that an error advises: they can be typed as they stand."""

import shlex
from datetime import UTC, datetime, timedelta, timezone

import pytest

from kraken_history.remedies import coverage_command, duration_text, fill_command, moment_text

START, END = datetime(2024, 1, 11, tzinfo=UTC), datetime(2026, 9, 1, tzinfo=UTC)


def test_a_gap_is_filled_by_a_backfill_of_its_range() -> None:
    assert (
        fill_command("BTC/USDT", START, END)
        == "kraken-history backfill BTC/USDT --from 2024-01-11T00:00:00Z --to 2026-09-01T00:00:00Z"
    )


def test_coverage_is_shown_of_the_same_range() -> None:
    assert (
        coverage_command("BTC/USDT", START, END)
        == "kraken-history coverage BTC/USDT --from 2024-01-11T00:00:00Z --to 2026-09-01T00:00:00Z"
    )


def test_times_are_widened_to_whole_seconds() -> None:
    moment = timedelta(microseconds=250_000)

    command = fill_command("BTC/USDT", START + moment, END + moment)

    assert command.endswith("--from 2024-01-11T00:00:00Z --to 2026-09-01T00:00:01Z")


def test_times_are_written_in_utc() -> None:
    local = timezone(timedelta(hours=2))

    command = fill_command("BTC/USDT", START.astimezone(local), END.astimezone(local))

    assert command == fill_command("BTC/USDT", START, END)


def test_a_name_with_characters_of_the_shell_stays_one_word() -> None:
    words = shlex.split(fill_command("A$B; rm/USD", START, END))

    assert words[2] == "A$B; rm/USD"


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(days=992, hours=2, minutes=5), "992 d 2 h"),
        (timedelta(days=964), "964 d"),
        (timedelta(days=2192, hours=2), "2,192 d 2 h"),
        (timedelta(days=1, minutes=5), "1 d"),
        (timedelta(hours=3, minutes=12, seconds=9), "3 h 12 min"),
        (timedelta(seconds=65), "1 min 5 s"),
        (timedelta(seconds=20), "20 s"),
        (timedelta(milliseconds=250), "0.2 s"),
    ],
)
def test_a_length_of_time_has_its_two_largest_units(duration: timedelta, text: str) -> None:
    assert duration_text(duration) == text


def test_a_moment_has_seconds_if_it_needs_them() -> None:
    assert moment_text(START) == "2024-01-11 00:00Z"
    assert moment_text(START + timedelta(seconds=20.5)) == "2024-01-11 00:00:20Z"
