"""Exporting features to files: CSV, Parquet, JSON lines."""
