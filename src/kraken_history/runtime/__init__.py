"""Shared by all running processes: start and stop, connections to Redis, logs, metrics and signs of life."""
