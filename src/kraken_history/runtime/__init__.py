"""What every running process needs: start and stop, connections to Redis, logs, metrics and signs of life."""
