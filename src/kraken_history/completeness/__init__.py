"""What is stored and what is missing: reads and writes of ``data_sync_status`` and ``absence_evidence``."""
