"""Stored and missing data: reads and writes of ``data_sync_status`` and ``absence_evidence``."""
