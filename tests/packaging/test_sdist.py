"""The source distribution: it makes the same wheel, and brings what the tests need."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.compose_file import REPOSITORY
from tests.support.distributions import build, contents

# Tests that read the files around the code, and one folder of tests that needs nothing but the code.
QUICK_TESTS = (
    "tests/packaging/test_documents.py",
    "tests/packaging/test_dockerfile.py",
    "tests/core/test_intervals.py",
)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built archive."""
    return build(REPOSITORY, "sdist", tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


def test_it_is_small_and_holds_no_cache(unpacked: Path) -> None:
    files = [path for path in unpacked.rglob("*") if path.is_file()]

    assert not [path for path in files if path.suffix == ".pyc" or "_cache" in str(path.relative_to(unpacked))]
    assert sum(path.stat().st_size for path in files) < 10_000_000


def test_it_holds_every_file_of_the_repository(unpacked: Path) -> None:
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is not a checkout of git")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    names = [name for name in listing.stdout.split("\0") if (REPOSITORY / name).is_file()]
    tracked = [name for name in names if not name.startswith(".github/")]  # for the repository's host only

    missing = [name for name in tracked if not (unpacked / name).is_file()]

    assert len(tracked) > 100
    assert missing == []


def test_it_makes_the_wheel_that_the_checkout_makes(unpacked: Path, tmp_path: Path) -> None:
    from_sdist = contents(build(unpacked, "wheel", tmp_path / "a"))
    from_checkout = contents(build(REPOSITORY, "wheel", tmp_path / "b"))

    assert from_sdist == from_checkout


def test_its_tests_run(unpacked: Path) -> None:
    # Options for this run of the tests, such as the floor of the coverage, are not meant for that one.
    environment = os.environ | {"PYTHONPATH": str(unpacked / "src"), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK_TESTS]

    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
