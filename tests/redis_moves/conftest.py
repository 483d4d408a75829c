"""A Redis that moves from one server to another."""

from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
