"""Kraken's public protocols: frames and pages in, records out. Decoding is pure; only ``client`` does I/O."""
