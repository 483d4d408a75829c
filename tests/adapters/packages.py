"""Packages of others, which are not installed everywhere."""

import importlib
import warnings
from typing import Any

import pytest


def package(name: str) -> Any:
    """A package; the test is skipped if it is not installed. Its own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name.partition('.')[0]} is not installed, see CONTRIBUTING.md")
