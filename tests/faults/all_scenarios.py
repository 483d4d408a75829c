"""Imports the modules that register scenarios, in the order of the table."""

from tests.faults import of_services  # isort: split

from tests.faults import of_redis  # isort: split

from tests.faults import of_clusters  # isort: split

from tests.faults import of_databases  # isort: split

from tests.faults import of_networks  # isort: split

from tests.faults import of_kraken  # isort: split

from tests.faults import of_data
from tests.faults.scenario import SCENARIOS

__all__ = ["SCENARIOS", "of_clusters", "of_data", "of_databases", "of_kraken", "of_networks", "of_redis", "of_services"]
