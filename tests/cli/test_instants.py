"""Times on the terminal."""

from datetime import UTC, datetime, timedelta

import pytest

from kraken_history.cli.instants import instant, parse_instant

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
