"""Connections to PostgreSQL and the schema's migrations."""
