"""Faults on demand: drawn from a seed, logged, and struck again from a log."""
