"""The archive: closed months as Parquet files, with a manifest of what they hold and prove. See ``docs/archive.md``."""
