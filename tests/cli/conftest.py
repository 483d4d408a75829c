"""The command in this process."""

from tests.support.command import clean_environment, command  # noqa: F401 — fixtures
