"""``dead-letters list`` and ``dead-letters replay``."""

import asyncio
import sys

import msgspec
from rich.text import Text

from kraken_history.cli import servers as server_choice
from kraken_history.cli.instants import instant
from kraken_history.cli.redis_away import patience_of
from kraken_history.cli.tables import moment_cell, print_table, table_of
from kraken_history.errors import MalformedMessage, UsageError
from kraken_history.runtime.processes import EXIT_FAILED
from kraken_history.runtime.redis_access import connect_streams
from kraken_history.settings import Settings
from kraken_history.stream.dead_letters import DeadLetter, DeadLetters
from kraken_history.stream.shards import fetch_shards


def run_list(settings: Settings, *, as_json: bool) -> None:
    """Print all dead letters."""
    with server_choice.redis(settings) as redis_url:
        letters = asyncio.run(_letters(redis_url, settings))
    if as_json:
        sys.stdout.write(msgspec.json.encode([_as_json(letter) for letter in letters]).decode() + "\n")
    elif letters:
        table = table_of("id", "died at", "origin", "reason", "bytes", times=["died at"], texts=("origin", "reason"))
        for letter in letters:
            size = sum(map(len, letter.fields.values()))
            table.add_row(letter.id, moment_cell(letter.died_at), letter.origin, Text(letter.reason), f"{size:,}")
        print_table(table)
    else:
        sys.stderr.write("there are no dead letters\n")


def run_replay(settings: Settings, id_: str | None) -> int:
    """Replay one letter, or all. Letters that still cannot be decoded are kept, and the exit code is then 1."""
    with server_choice.redis(settings) as redis_url:
        replayed, kept = asyncio.run(_replay(redis_url, settings, id_))
    sys.stderr.write(
        f"replayed {replayed} dead letter(s)" + (f", kept {kept} that cannot be decoded\n" if kept else "\n")
    )
    return EXIT_FAILED if kept else 0


async def _letters(redis_url: str, settings: Settings) -> list[DeadLetter]:
    async with await connect_streams(redis_url, retry=patience_of(settings)) as redis:
        return [letter async for letter in DeadLetters(redis, max_letters=settings.dead_letters_max).list()]


async def _replay(redis_url: str, settings: Settings, id_: str | None) -> tuple[int, int]:
    replayed = kept = 0
    async with await connect_streams(redis_url, retry=patience_of(settings)) as redis:
        dead_letters = DeadLetters(redis, max_letters=settings.dead_letters_max)
        chosen = [letter async for letter in dead_letters.list() if id_ in (None, letter.id)]
        if id_ is not None and not chosen:
            raise UsageError(f"there is no dead letter {id_}: `kraken-history dead-letters list` shows the ids")
        shards = await fetch_shards(redis) or settings.stream_shards
        for letter in chosen:
            try:
                await dead_letters.replay(letter, shards=shards)
                replayed += 1
            except MalformedMessage as error:
                sys.stderr.write(f"{letter.id}: {error.reason}\n")
                kept += 1
    return replayed, kept


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "died_at": instant(letter.died_at),
        "origin": letter.origin,
        "origin_id": letter.origin_id,
        "reason": letter.reason,
        "fields": {
            name.decode(errors="replace"): value.decode(errors="backslashreplace")
            for name, value in letter.fields.items()
        },
    }
