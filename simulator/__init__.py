"""A Kraken of our own: WebSocket v2 and REST on one port, deterministic, knowing what it has said."""

from simulator.server import Simulator
from simulator.truth import canonical_line, digest_of

__all__ = ["Simulator", "canonical_line", "digest_of"]
