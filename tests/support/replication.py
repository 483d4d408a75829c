"""A primary and a streaming standby."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from msgspec import Struct

from kraken_history.embedded.accounts import as_account, server_account
from kraken_history.embedded.binaries import find_binaries
from kraken_history.embedded.postgres import SUPERUSER, Postgres
from kraken_history.embedded.process import HOST, free_port
from tests.support.servers import TEST_SETTINGS
from tests.support.waiting import until

DATABASE = "kraken_history"


class Pair(Struct, frozen=True):
    """Two servers, of which the second follows the first."""

    primary: Postgres
    standby: Postgres
    password: str

    @property
    def primary_url(self) -> str:
        return self._url(f"{HOST}:{self.primary.port}")

    @property
    def standby_url(self) -> str:
        return self._url(f"{HOST}:{self.standby.port}")

    @property
    def both_url(self) -> str:
        """The standby comes first, so that a client which takes any server would take it."""
        return self._url(f"{HOST}:{self.standby.port},{HOST}:{self.primary.port}")

    async def caught_up(self) -> None:
        """Wait until the standby has replayed all that the primary has written."""
        written = await run_on(self.primary_url, "SELECT pg_current_wal_insert_lsn()::text")
        ask = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"

        async def has() -> bool:
            return bool(await run_on(self.standby_url, ask))

        await until(has)

    def _url(self, hosts: str) -> str:
        return f"postgresql://{SUPERUSER}:{self.password}@{hosts}/{DATABASE}"


@contextmanager
def replicated(folder: Path, settings: Mapping[str, str]) -> Iterator[Pair]:
    """Start a primary and its standby, and stop both at the end."""
    bin_dir = find_binaries().postgres_bin
    if not (bin_dir / "pg_basebackup").exists():
        pytest.skip(f"{bin_dir} has no pg_basebackup")
    password = secrets.token_hex(8)
    primary = Postgres(bin_dir, folder / "primary", port=free_port(), log=folder / "primary.log")
    standby = Postgres(bin_dir, folder / "standby", port=free_port(), log=folder / "standby.log")
    try:
        primary.create(password=password, database=DATABASE, settings=TEST_SETTINGS | dict(settings))
        primary.start(60)
        _copy(primary, standby, password)
        standby.start(60)
        yield Pair(primary, standby, password)
    finally:
        for server in (standby, primary):
            if server.exists:
                server.stop(60)
        shutil.rmtree(folder, ignore_errors=True)


def _copy(primary: Postgres, standby: Postgres, password: str) -> None:
    account = server_account(primary.data)
    standby.data.mkdir(mode=0o700)
    if account is not None:
        os.chown(standby.data, account.uid, account.gid)
    source = f"host={HOST} port={primary.port} user={SUPERUSER} password={password} application_name=standby"
    argv = [str(primary.bin_dir / "pg_basebackup"), "-D", str(standby.data), "-d", source]
    done = subprocess.run(
        as_account([*argv, "-R", "-X", "stream", "-c", "fast", "--no-sync"], account, reaching=[standby.data]),
        capture_output=True, text=True, cwd="/", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


async def run_on(url: str, *statements: str) -> object:
    """Run statements, each on its own; return the value of the last."""
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetchval(statement) for statement in statements][-1]
    finally:
        await connection.close()
