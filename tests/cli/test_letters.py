"""``dead-letters list`` and ``dead-letters replay``."""

import json

import pytest
from redis.asyncio import Redis

from kraken_history.errors import MalformedMessage
from kraken_history.stream import wire
from kraken_history.stream.dead_letters import DeadLetters
from tests.cli.samples import trade
from tests.support.command import Run
from tests.support.servers import Background

STREAM = wire.trades_stream(0)


async def bury(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        letters = DeadLetters(redis, max_letters=10)
        await letters.put(STREAM, "5-0", "would not be stored [twice]", wire.encode([trade(1)]))
        await letters.put_frame(MalformedMessage("not JSON", b"\xff{"))


async def lengths(redis_url: str) -> tuple[int, int]:
    async with Redis.from_url(redis_url) as redis:
        return await redis.xlen(STREAM), await redis.xlen(wire.DEAD_LETTERS)


@pytest.fixture
def buried_url(redis_url: str, background: Background, clean_environment: pytest.MonkeyPatch) -> str:
    """A Redis with an entry that can be replayed and a frame that cannot."""
    background.run(bury(redis_url))
    clean_environment.setenv("REDIS_URL", redis_url)
    return redis_url


def test_no_letters_are_told_on_standard_error(redis_url: str, command: Run) -> None:
    assert command("dead-letters", "list", REDIS_URL=redis_url) == (0, "", "there are no dead letters\n")
    assert command("dead-letters", "list", "--json").out == "[]\n"


def test_letters_are_listed_with_their_reasons(buried_url: str, command: Run) -> None:
    table = command("dead-letters", "list")
    entry, frame = json.loads(command("dead-letters", "list", "--json").out)

    assert "would not be stored [twice]" in table.out
    assert (entry["origin"], entry["origin_id"], entry["reason"]) == (STREAM, "5-0", "would not be stored [twice]")
    assert (frame["origin"], frame["reason"], frame["fields"]) == ("websocket", "not JSON", {"frame": r"\xff{"})


def test_one_letter_is_replayed_by_its_id(buried_url: str, background: Background, command: Run) -> None:
    entry, _ = json.loads(command("dead-letters", "list", "--json").out)

    outcome = command("dead-letters", "replay", "--id", entry["id"])

    assert (outcome.code, outcome.out) == (0, "")
    assert background.run(lengths(buried_url)) == (1, 1)


def test_of_all_letters_those_that_cannot_be_read_are_kept(
    buried_url: str, background: Background, command: Run
) -> None:
    outcome = command("dead-letters", "replay", "--all")

    assert outcome.code == 1
    assert "replayed 1 dead letter(s), kept 1" in outcome.err
    assert background.run(lengths(buried_url)) == (1, 1)


def test_an_unknown_letter_is_refused(buried_url: str, command: Run) -> None:
    outcome = command("dead-letters", "replay", "--id", "1-0")

    assert outcome.code == 2
    assert "no dead letter 1-0" in outcome.err
