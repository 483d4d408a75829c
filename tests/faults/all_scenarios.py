"""Imports the modules that register scenarios, in the order of the table."""

from tests.faults import of_services
from tests.faults.scenario import SCENARIOS

__all__ = ["SCENARIOS", "of_services"]
