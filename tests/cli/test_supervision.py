"""The Procfile, supervisord's configuration, its logs, and the guard."""

import configparser
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kraken_history.cli import guard
from kraken_history.cli.chain import AlreadyRunning, claimed, service_programs
from kraken_history.cli.checkout import Process, find_checkout, read_procfile
from kraken_history.cli.logs import LogTail, readable
from kraken_history.cli.supervisor import Program, Supervisor
from kraken_history.errors import ServiceUnavailable, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_procfile_is_read_without_its_release() -> None:
    text = "# all\nrelease: kraken-history migrate\n\nproducer: python -m producers --name 'a b'\n"

    assert read_procfile(text) == [Process("producer", ("python", "-m", "producers", "--name", "a b"))]


def test_a_line_that_is_none_of_a_procfile_is_named() -> None:
    with pytest.raises(UsageError, match="line 1: expected"):
        read_procfile("producer python\n")


def test_the_checkout_is_the_current_folder_or_that_of_the_editable_install(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: python -m http.server\n")  # somebody else's

    assert find_checkout(REPOSITORY) == REPOSITORY
    assert find_checkout(tmp_path) == REPOSITORY


def test_services_stop_in_the_order_of_the_procfile_each_with_its_own_metrics_port() -> None:
    programs = service_programs(REPOSITORY, metrics_port=9000)

    assert [program.name for program in programs] == ["producer", "consumer", "worker"]
    assert [program.priority for program in programs] == sorted((p.priority for p in programs), reverse=True)
    assert [program.environment["METRICS_PORT"] for program in programs] == ["9000", "9001", "9002"]


@pytest.fixture
def lock_file(tmp_path: Path) -> Iterator[Path]:
    """A lock that is held: without it, the guard would end the supervisor."""
    with claimed(tmp_path / "data") as held:
        yield held


def supervisor(lock_file: Path, *argv: str) -> Supervisor:
    folder = lock_file.parent
    program = Program("thing", argv, folder, 100, stop_signal=signal.SIGINT)
    environment = {"PATH": "/usr/bin:/bin", "DATABASE_URL": "postgresql://me:secret@h/x"}
    return Supervisor([program], run_dir=folder, log_dir=folder, lock_file=lock_file, environment=environment)


def test_the_configuration_holds_no_password(lock_file: Path) -> None:
    text = supervisor(lock_file, "/bin/echo", "a b").config()
    config = configparser.RawConfigParser()
    config.read_string(text)
    section = config["program:thing"]

    assert "secret" not in text
    assert section["command"] == "/bin/sh thing.sh"
    assert (section["stopsignal"], section["autostart"], section["autorestart"]) == ("INT", "false", "true")
    assert config["program:guard"]["autostart"] == "true"


@pytest.mark.parametrize(
    "name", ["100%", "100%s", "%(here)s", "a ;b", 'it\'s "my" #1', "$HOME `x`", "a\nb", "ü \udce9"]
)
async def test_any_folder_name_survives_the_supervisors_configuration(tmp_path: Path, name: str) -> None:
    """A percent sign ended supervisord with a message about its --help, and " ;" cut a path in two."""
    with claimed(tmp_path / name) as lock_file:
        program = tmp_path / name / "program"
        program.symlink_to("/bin/sh")
        running = supervisor(lock_file, str(program), "-c", 'pwd; echo "$0 $1"; exec sleep 60', "100% ;#", "$x\n")
        async with running:
            await running.start_program("thing")
            while (await running.states())["thing"].state != "RUNNING":
                pass
            output = running.log_of("thing").read_bytes()

    assert output == os.fsencode(f"{lock_file.parent}\n100% ;# $x\n\n")


async def test_the_supervisors_own_last_words_are_shown(lock_file: Path) -> None:
    (lock_file.parent / "thing.log").mkdir()
    (lock_file.parent / "supervisord.log").mkdir()

    with pytest.raises(ServiceUnavailable, match=r"supervisord did not start: .*supervisord\.log"):
        async with supervisor(lock_file, "/bin/true"):
            pass


async def test_programs_get_secrets_from_the_environment_and_end_with_the_supervisor(lock_file: Path) -> None:
    async with supervisor(lock_file, "/bin/sh", "-c", "echo $DATABASE_URL; exec sleep 60") as running:
        await running.start_program("thing")
        while not (state := (await running.states())["thing"]).is_up or not running.log_of("thing").stat().st_size:
            pass
        pid = state.pid

    assert running.last_words("thing") == "postgresql://me:secret@h/x"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not running.is_alive


async def test_programs_do_not_outlive_a_supervisor_that_was_killed(lock_file: Path) -> None:
    async with supervisor(lock_file, "/bin/sleep", "60") as running:
        await running.start_program("thing")
        while (state := (await running.states())["thing"]).state != "RUNNING":
            pass
        program = psutil.Process(state.pid)
        psutil.Process(program.ppid()).kill()
        await running.wait()

    assert psutil.wait_procs([program], timeout=5)[1] == []


def test_the_guard_ends_its_parent_when_the_lock_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-IS', {guard.__file__!r}, {str(lock)!r}])"
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        parent = subprocess.Popen([sys.executable, "-c", script])
        with pytest.raises(subprocess.TimeoutExpired):
            parent.wait(0.5)

    assert parent.wait(10) == -signal.SIGTERM


def test_a_data_directory_is_claimed_once(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "data"),
        pytest.raises(AlreadyRunning, match=r"already running in .*data \(process \d+\)"),
        claimed(tmp_path / "data"),
    ):
        pass
    with claimed(tmp_path / "data"):
        pass


def test_lines_are_read_whole_and_across_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\n")
    tail = LogTail({"a": log, "b": tmp_path / "b.log"}, quiet=["b"])
    with log.open("a") as file:
        file.write("one\ntw")
    first = list(tail.new_lines())
    with log.open("a") as file:
        file.write("o\n")
    log.rename(tmp_path / "a.log.1")
    log.write_text("three\n")
    (tmp_path / "b.log").write_text("LOG: hello\nERROR:  no\n")
    second = list(tail.new_lines())
    tail.close()

    assert first == [("a", "one")]
    assert second == [("a", "two"), ("a", "three"), ("b", "ERROR:  no")]


def test_an_event_is_shown_for_people_and_any_other_line_as_it_is() -> None:
    event = '{"url": "x", "event": "connected", "level": "info", "timestamp": "2026-01-01T10:11:12Z"}'

    assert readable(event) == "10:11:12 info    connected url=x"
    assert readable("plain words") == "plain words"
