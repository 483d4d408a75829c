"""Who runs PostgreSQL."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from kraken_history.embedded import Binaries, Servers, absolute, default_data_dir, find_binaries
from kraken_history.embedded.accounts import (
    Account,
    as_account,
    may_set_securebits,
    reading_capability,
    server_account,
)
from kraken_history.errors import UsageError
from tests.support.measuring import unmeasured

pytestmark = pytest.mark.servers

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# Everything is imported, and found, before the account changes, which may not be able to read the
# interpreter's folder; idna is what a socket imports when it first connects.
AS_NOBODY = """
import asyncio, os, sys
import asyncpg
from pathlib import Path
from kraken_history.embedded import Binaries, Servers
servers = Servers(Path(sys.argv[1]), binaries=Binaries(Path(sys.argv[2]), Path(sys.argv[3])))
"127.0.0.1".encode("idna")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.environ["HOME"] = sys.argv[4]
async def ask():
    connection = await asyncpg.connect(servers.database_url)
    return await connection.fetchval("SELECT true")
with servers.running():
    print(servers.is_running(), servers.postgres_argv()[0].endswith("/postgres"), asyncio.run(ask()))
print(servers.is_running())
"""


def programs_in(folder: Path) -> Binaries:
    """The servers' programs as an installer would put them into ``folder`` under the current umask."""
    installed = find_binaries()
    package = installed.postgres_bin.parents[1]
    for part in ("bin", "lib/postgresql", "share"):
        target = folder / package.name / installed.postgres_bin.parent.name / part
        shutil.copytree(installed.postgres_bin.parent / part, target, copy_function=_install)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, folder / libraries.name, copy_function=_install)
    valkey_server = folder / "valkey-server"
    _install(str(installed.valkey_server), str(valkey_server))
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o777 & ~_umask())  # copytree copies a folder's mode
    return Binaries(folder / package.name / installed.postgres_bin.parent.name / "bin", valkey_server)


def _install(source: str, target: str) -> str:
    """As pip and uv: a new file has the modes of the umask, and everybody may execute a program."""
    shutil.copyfile(source, target)
    if os.access(source, os.X_OK):
        os.chmod(target, os.stat(target).st_mode | 0o111)
    return target


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that everybody can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="kraken-history-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_an_ordinary_user_runs_the_program_as_it_is() -> None:
    assert as_account(["/bin/true"], None, reaching=[]) == ["/bin/true"]


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        ("000001ffffffffff", "dac_read_search"),
        ("00000000a80425fb", "dac_override"),
        ("0000000000000000", None),
    ],
)
def test_the_weakest_capability_that_reads_everywhere_is_kept(effective: str, expected: str | None) -> None:
    status = f"Name:\tpython\nCapPrm:\t{effective}\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\n"

    assert reading_capability(status) == expected


def test_only_a_process_with_setpcap_may_set_securebits() -> None:
    assert may_set_securebits("CapEff:\t00000000a80425fb\n")
    assert not may_set_securebits("CapEff:\t0000000000000006\n")


@needs_root
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_root_runs_programs_and_data_in_a_folder_that_only_root_can_enter(public_dir: Path, umask: int) -> None:
    """In root's home of mode 0700: program "postgres" is needed by initdb but was not found in the same directory."""
    home = public_dir / "root's home"
    home.mkdir(mode=0o700)
    before = os.umask(umask)
    try:
        servers = Servers(home / "data", durable=False, binaries=programs_in(home / "programs"))
        with servers.running():
            is_running = servers.is_running()
    finally:
        os.umask(before)

    assert is_running
    assert not servers.is_running()
    assert home.stat().st_mode & 0o777 == 0o700


@needs_root
def test_root_gives_the_cluster_away_and_touches_no_parent_folder(servers: Servers, data_dir: Path) -> None:
    modes = [folder.stat().st_mode for folder in data_dir.parents]

    with servers.running():
        owner = (data_dir / "postgres").stat().st_uid
        postmaster = int((data_dir / "postgres/postmaster.pid").read_text().splitlines()[0])
        runs_as = Path(f"/proc/{postmaster}").stat().st_uid

    assert owner == runs_as != 0
    assert [folder.stat().st_mode for folder in data_dir.parents] == modes


@needs_root
def test_an_existing_cluster_keeps_its_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)

    assert server_account(tmp_path) == Account(12345, 12346)


@needs_root
def test_without_setpriv_python_changes_the_account(public_dir: Path) -> None:
    argv = as_account(
        ["/bin/sh", "-c", "id -u"], Account(65534, 65534), reaching=[public_dir], find_setpriv=lambda: None
    )

    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "65534\n"


def test_without_setpriv_an_unreachable_folder_is_named_with_what_to_do(public_dir: Path) -> None:
    (public_dir / "secret").mkdir(mode=0o700)

    for argv, reaching in (["/bin/true"], [public_dir / "secret/data"]), ([f"{public_dir}/secret/true"], []):
        with pytest.raises(UsageError, match=r"because of .*/secret; run this as an ordinary user, install util-linux"):
            as_account(argv, Account(12345, 12345), reaching=reaching, find_setpriv=lambda: None)


@needs_root
def test_an_ordinary_user_starts_and_stops_even_if_home_is_that_of_root(public_dir: Path) -> None:
    """`sudo -u` keeps HOME: a good database was called dead, since root's TLS key was out of reach."""
    programs = programs_in(public_dir / "programs")
    (public_dir / "home").mkdir()
    os.chown(public_dir / "home", 65534, 65534)
    data = public_dir / "home/data"

    roots_home = public_dir / "root"
    roots_home.mkdir(mode=0o700)

    arguments = [data, programs.postgres_bin, programs.valkey_server, roots_home]
    command = [sys.executable, "-c", AS_NOBODY, *map(str, arguments)]
    done = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, check=False)

    assert (done.stdout.split(), done.stderr) == (["True", "True", "True", "False"], "")
    assert (data / "postgres").stat().st_uid == 65534


def test_initdb_needs_an_account_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.raises(
        UsageError, match=r"a name for user 12345: add the line kraken:x:12345:\d+::/:/bin/sh to /etc/p"
    ):
        Servers(tmp_path / "data").prepare()


@needs_root
def test_an_account_without_a_name_runs_servers_that_exist(public_dir: Path) -> None:
    """As in OpenShift, where a container gets a user of any number."""
    programs = programs_in(public_dir / "programs")
    servers = Servers(public_dir / "data", durable=False, binaries=programs)
    servers.prepare()
    for path in (servers.data_dir, *servers.data_dir.rglob("*")):
        os.chown(path, 12345, 0, follow_symlinks=False)

    script = AS_NOBODY.replace("65534", "12345")
    arguments = [servers.data_dir, programs.postgres_bin, programs.valkey_server, public_dir]
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, check=False)

    assert (done.stdout.split(), done.stderr) == (["True", "True", "True", "False"], "")


@pytest.mark.parametrize("choose", [default_data_dir, lambda: absolute(Path("~/data"))])
def test_an_account_without_a_home_is_told_what_to_set(
    choose: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)

    with pytest.raises(UsageError, match=r"user \d+ has no home directory: set KRAKEN_HISTORY_DATA_DIR"):
        choose()
