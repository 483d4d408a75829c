"""Packages of others, imported when they are needed."""

import importlib
from typing import Any

from kraken_history.errors import MissingPackage


def imported(name: str) -> Any:
    """A module of a package of somebody else's.

    Raises:
        MissingPackage: The package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(name.partition(".")[0]) from error
