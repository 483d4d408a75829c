"""A disk that fills up under `up`."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kraken_history.cli.disk import FREE_BYTES, FULL_BYTES, Disk
from tests.cli.test_demo import COMMAND
from tests.cli.test_up import settings, until  # noqa: F401 — a fixture

_SIZE_MB = 450


def test_a_disk_is_full_until_there_is_clearly_space_again() -> None:
    free = [FREE_BYTES, FULL_BYTES, FULL_BYTES - 1, 0, FREE_BYTES - 1, FREE_BYTES, FULL_BYTES]
    disk = Disk(Path("/data"), free_bytes=lambda _: free.pop(0))

    lines = [disk.look() for _ in range(7)]

    assert [bool(line) for line in lines] == [False, False, True, False, False, True, False]
    assert lines[2].startswith("the disk of /data is full (17 MB free): free some space.")
    assert lines[5].startswith("the disk of /data has space again (67 MB free)")


def test_a_disk_that_cannot_be_measured_is_not_called_full() -> None:
    def fail(_: Path) -> int:
        raise OSError("stale file handle")

    disk = Disk(Path("/data"), free_bytes=fail)

    assert (disk.look(), disk.is_full) == ("", False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 450 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m,mode=711", "tmpfs", str(folder)]
    if os.geteuid() != 0 or sys.platform != "linux" or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.servers
@pytest.mark.slow
def test_up_says_that_the_disk_is_full_waits_and_goes_on(
    settings: dict[str, str],  # noqa: F811 — the fixture
    small_disk: Path,
    tmp_path: Path,
) -> None:
    """supervisord died of its own log, and nothing came back when space was freed."""
    log = tmp_path / "up.log"
    environment = settings | {"KRAKEN_HISTORY_DATA_DIR": str(small_disk / "data")}
    with log.open("w") as file:
        up = subprocess.Popen([*COMMAND, "up"], env=environment, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        until(lambda: "\nready: " in log.read_text(), "no ready line")
        _fill(small_disk)
        until(lambda: "is full (" in log.read_text(), "no word about the disk")
        until(lambda: log.read_text().count("No space left") > 1, "nothing was lost to the disk")
        (small_disk / "filler").unlink()
        until(lambda: "has space again" in log.read_text(), "no word about the space")
        until(lambda: _is_well(environment), "a service did not go on")
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)

    assert up.returncode == 0


def _fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            pass
    assert shutil.disk_usage(folder).free < FULL_BYTES


def _is_well(environment: dict[str, str]) -> bool:
    services = ("producer", "consumer", "worker")
    checks = [[*COMMAND, "health", service] for service in services]
    return all(
        subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0 for check in checks
    )
