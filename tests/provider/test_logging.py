"""The library logs nothing to standard output unless the program that imports it asks for it."""

import subprocess
import sys

import pytest

from kraken_history.runtime.logs import LONGEST_TEXT

EVENT = "from kraken_history.runtime.telemetry import get_logger; get_logger('gaps').warning('waiting', server='redis')"


def run(code: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_a_program_that_configures_nothing_sees_no_log() -> None:
    """A strategy that imported the provider found log lines in its output."""
    assert run(EVENT) == ("", "")


@pytest.mark.parametrize(
    "wish",
    [
        "import logging; logging.basicConfig()",
        "import structlog, sys; structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))",
    ],
    ids=["logging", "structlog"],
)
def test_a_program_that_asks_for_it_sees_the_log(wish: str) -> None:
    out, err = run(f"{wish}\n{EVENT}")

    assert out == ""
    assert "waiting" in err
    assert "server" in err


def test_a_service_logs_to_standard_error() -> None:
    out, err = run(
        "from kraken_history.runtime.telemetry import configure_logging\n"
        f"configure_logging('INFO', as_json=True)\n{EVENT}"
    )

    assert out == ""
    assert '"component": "gaps"' in err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_long_text_is_cut(as_json: bool) -> None:
    """A server's error quoted 7,000 characters of an entry, several times a second."""
    out, err = run(
        "from kraken_history.runtime.telemetry import configure_logging, get_logger\n"
        f"configure_logging('INFO', as_json={as_json})\n"
        "get_logger('publisher').warning('held_back', reason='x' * 7000)"
    )

    assert out == ""
    assert err.count("x") == LONGEST_TEXT
    assert "(7000 characters)" in err
