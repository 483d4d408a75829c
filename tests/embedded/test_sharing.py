"""Several commands with one data directory."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kraken_history.embedded import Servers
from kraken_history.errors import UsageError

pytestmark = pytest.mark.servers

HOLD = """
import sys
from pathlib import Path
from kraken_history.embedded import Servers
servers = Servers(Path(sys.argv[1]), durable=False)
with servers.running():
    print(servers.database_url, flush=True)
    sys.stdin.readline()
"""

COME_AND_GO = """
import asyncio, random, sys, time
from pathlib import Path
import asyncpg
from kraken_history.embedded import Servers

async def ask(url):
    connection = await asyncpg.connect(url)
    await connection.fetchval("SELECT 1")
    await connection.close()

servers = Servers(Path(sys.argv[1]), durable=False)
for _ in range(5):
    with servers.running():
        asyncio.run(ask(servers.database_url))
    time.sleep(random.random() / 20)
"""


class Command:
    """Another process that uses the servers until it is told to end."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.database_url = self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("\n")
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def supervised(servers: Servers) -> Iterator[None]:
    """Both servers in the foreground of a stand-in for a supervisor."""
    with ExitStack() as stack:
        for argv in (servers.postgres_argv(), servers.valkey_argv()):
            process = stack.enter_context(
                subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            )
            stack.callback(process.send_signal, 2)
        yield


def pids(data_dir: Path) -> tuple[str, str]:
    postmaster = (data_dir / "postgres/postmaster.pid").read_text().splitlines()[0]
    return postmaster, (data_dir / "valkey/valkey.pid").read_text()


def test_the_last_of_two_commands_stops_the_servers(servers: Servers, data_dir: Path) -> None:
    first, second = Command(data_dir), Command(data_dir)
    assert first.database_url == second.database_url == servers.database_url

    first.end()
    assert servers.is_running()

    second.end()
    assert not servers.is_running()


def test_servers_of_a_killed_command_are_used_and_stopped_by_the_next(servers: Servers, data_dir: Path) -> None:
    Command(data_dir).kill()
    assert servers.is_running()
    left_behind = pids(data_dir)

    with servers.running():
        assert pids(data_dir) == left_behind

    assert not servers.is_running()


def test_commands_that_come_and_go_never_miss_the_servers(servers: Servers, data_dir: Path) -> None:
    servers.prepare()
    commands = [
        subprocess.Popen([sys.executable, "-c", COME_AND_GO, str(data_dir)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]

    errors = [command.communicate()[1] for command in commands]

    assert errors == [""] * 4
    assert not servers.is_running()


def test_an_error_in_the_command_still_stops_the_servers(servers: Servers) -> None:
    with pytest.raises(ZeroDivisionError), servers.running():
        raise ZeroDivisionError

    assert not servers.is_running()


def test_only_one_command_can_claim_the_servers(servers: Servers, data_dir: Path) -> None:
    with servers.claim_up(), pytest.raises(UsageError, match="already running"), Servers(data_dir).claim_up():
        pass

    with servers.claim_up():
        pass


def test_a_claim_is_refused_while_another_command_keeps_using_the_servers(servers: Servers, data_dir: Path) -> None:
    command = Command(data_dir)

    with (
        pytest.raises(UsageError, match="another command has been using"),
        Servers(data_dir, durable=False, timeout_s=0.5).claim_up(),
    ):
        pass
    assert servers.is_running()

    command.end()
    assert not servers.is_running()


def test_a_claim_waits_for_the_command_that_uses_the_servers(servers: Servers, data_dir: Path) -> None:
    command = Command(data_dir)

    with servers.claim_up(waiting=command.end):
        assert not servers.is_running()


def test_commands_that_come_all_the_time_do_not_lock_a_claim_out(servers: Servers, data_dir: Path) -> None:
    """`watch kraken-history status` kept `up` from starting: some command used the servers at each attempt."""
    first = Command(data_dir)
    later: list[threading.Thread] = []
    joined = threading.Event()

    def use() -> None:
        with Servers(data_dir, durable=False).running():
            joined.set()

    def more_come_before_the_first_leaves() -> None:
        later.append(threading.Thread(target=use))
        later[0].start()
        assert not joined.wait(0.5)
        first.end()

    with servers.claim_up(waiting=more_come_before_the_first_leaves):
        assert not joined.is_set()
        servers.prepare()
        with supervised(servers):
            assert joined.wait(30)
            later[0].join()
            assert servers.is_running()


def test_a_claim_stops_what_a_killed_command_left_behind(servers: Servers, data_dir: Path) -> None:
    Command(data_dir).kill()
    assert servers.is_running()

    with servers.claim_up():
        assert not servers.is_running()


def test_supervised_servers_are_found_and_outlive_a_command(servers: Servers, data_dir: Path) -> None:
    with servers.claim_up():
        servers.prepare()
        with supervised(servers):
            servers.wait_until_running()
            held_by_supervisor = pids(data_dir)

            Command(data_dir).end()

            assert servers.is_running()
            assert pids(data_dir) == held_by_supervisor


def test_a_command_waits_for_the_supervisor_instead_of_starting_servers(servers: Servers, data_dir: Path) -> None:
    used = threading.Event()

    def use() -> None:
        with Servers(data_dir, durable=False).running():
            used.set()

    with servers.claim_up():
        servers.prepare()
        command = threading.Thread(target=use)
        command.start()
        with supervised(servers):
            assert used.wait(timeout=30)
            command.join()
            assert servers.is_running()
