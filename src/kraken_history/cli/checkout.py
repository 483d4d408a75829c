"""Finds the checkout with the services' code and their Procfile, which the installed library lacks."""

import re
import shlex
from pathlib import Path

from msgspec import Struct

import kraken_history
from kraken_history.errors import UsageError

RELEASE = "release"
_LINE = re.compile(r"(?P<name>[A-Za-z0-9_-]+):\s*(?P<command>\S.*)")


class Process(Struct, frozen=True):
    """One line of a Procfile."""

    name: str
    argv: tuple[str, ...]


def find_checkout(working_directory: Path | None = None) -> Path:
    """The folder with the Procfile: the current one, or the checkout of an editable install.

    Raises:
        UsageError: Neither folder holds the Procfile and the services.
    """
    editable = Path(kraken_history.__file__).resolve().parents[2]
    for folder in (working_directory or Path.cwd(), editable):
        if (folder / "Procfile").is_file() and (folder / "producers/__main__.py").is_file():
            return folder
    raise UsageError(
        "the services are not part of the installed library: run this in a checkout of kraken-history,"
        " or install it from there with `pip install -e '.[services,embedded]'`"
    )


def read_procfile(text: str) -> list[Process]:
    """The long-running processes of a Procfile: all except ``release``.

    Raises:
        UsageError: A line is not of the form ``name: command``.
    """
    processes = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise UsageError(f"Procfile, line {number}: expected `name: command`, got {line!r}")
        if found["name"] != RELEASE:
            processes.append(Process(found["name"], tuple(shlex.split(found["command"]))))
    return processes
