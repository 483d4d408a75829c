"""A simulated Kraken: WebSocket v2 and REST on one port, deterministic, with a record of everything it sent."""

from simulator.server import Simulator
from simulator.truth import canonical_line, digest_of

__all__ = ["Simulator", "canonical_line", "digest_of"]
