"""Errors say what was found and by whom, and are kinds of those that callers catch."""

from datetime import UTC, datetime

import pytest

from kraken_history.errors import (
    BackfillStopped,
    InvalidChoice,
    InvalidNumber,
    InvalidRange,
    InvalidTime,
    KrakenBusy,
    KrakenError,
    KrakenHttpError,
    KrakenPaused,
    KrakenRefused,
    MisleadingPage,
    UnknownInterval,
    UsageError,
)

OWN_FINDINGS = [
    KrakenHttpError(502, is_json=False),
    KrakenHttpError(503, is_json=True),
    KrakenPaused("XBTUSDT", 600),
    MisleadingPage("BTC/USDT", 17, "its cursor does not advance, last=17"),
    BackfillStopped("BTC/USDT", "paused"),
]


@pytest.mark.parametrize("error", OWN_FINDINGS, ids=lambda error: type(error).__name__)
def test_only_krakens_own_words_are_passed_off_as_its_answer(error: KrakenError) -> None:
    assert "Kraken answered" not in str(error)
    assert error.errors == ()


@pytest.mark.parametrize("kind", [KrakenError, KrakenBusy, KrakenRefused])
def test_krakens_own_words_are_carried_as_they_came(kind: type[KrakenError]) -> None:
    error = kind(["EService:Busy", "EQuery:Unknown asset pair"])

    assert str(error) == "Kraken answered: EService:Busy; EQuery:Unknown asset pair"
    assert error.errors == ("EService:Busy", "EQuery:Unknown asset pair")


def test_callers_that_try_again_later_catch_pauses_and_http_failures_and_nothing_else_of_these() -> None:
    assert [isinstance(error, KrakenBusy) for error in OWN_FINDINGS] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        ("paused", "", "the backfill of BTC/USDT is paused: request it again to continue"),
        ("cancelled", "", "the backfill of BTC/USDT was cancelled: request it again to start anew"),
        ("failed", "no page", "the backfill of BTC/USDT has failed (no page): request it again to continue"),
    ],
)
def test_a_stopped_backfill_says_in_which_state_and_how_to_go_on(state, reason, message) -> None:  # type: ignore[no-untyped-def]
    error = BackfillStopped("BTC/USDT", state, reason)

    assert (str(error), error.symbol, error.state, error.reason) == (message, "BTC/USDT", state, reason)


def test_wrong_input_says_what_was_expected_and_what_came() -> None:
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    messages: dict[UsageError, str] = {
        InvalidTime("x"): "expected a timezone-aware datetime such as datetime(2026, 1, 1, tzinfo=UTC), got 'x'",
        InvalidRange(late, early): "start (2026-01-02 00:00:00+00:00) must be before end (2026-01-01 00:00:00+00:00)",
        InvalidNumber(
            "limit", -1, "a whole number of at least 1"
        ): "limit: expected a whole number of at least 1, got -1",
        InvalidChoice("gaps", "skip", ["raise", "pad"]): "gaps: expected one of raise, pad, got 'skip'",
        UnknownInterval(0, 9): "interval: expected a whole number of minutes from 1 to 9, got 0",
    }

    for error, message in messages.items():
        assert str(error) == message
