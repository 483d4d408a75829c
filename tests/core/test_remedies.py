"""Commands that an error advises: they can be typed as they stand."""

import shlex
from datetime import UTC, datetime, timedelta, timezone

from kraken_history.remedies import coverage_command, fill_command

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
