"""No command prints any part of a password, whatever is wrong with its URL."""

import pytest

from tests.support.command import Run

COMMANDS = [
    ("status",),
    ("migrate",),
    ("candles", "BTC/USDT"),
    ("export", "BTC/USDT"),
    ("backfill", "BTC/USDT"),
    ("fill-gaps", "--wait"),
    ("refresh",),
    ("health", "worker"),
    ("dead-letters", "list"),
    ("demo", "--seconds", "1"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("secret", ["Sup3r#Secret", "Sup3r/Secret", "Sup3r%23Secret"])
def test_no_command_prints_a_password(command: Run, arguments: tuple[str, ...], secret: str) -> None:
    urls = {
        "DATABASE_URL": f"postgresql://me:{secret}@127.0.0.1:9/name",
        "REDIS_URL": f"redis://me:{secret}@127.0.0.1:9/0",
    }

    outcome = command(*arguments, **urls)

    assert outcome.code in (1, 2)
    assert outcome.err.count("\n") == 1
    assert "Sup3r" not in outcome.out + outcome.err
    assert "Secret" not in outcome.out + outcome.err
    assert ("percent-encode" in outcome.err) is ("%23" not in secret)
