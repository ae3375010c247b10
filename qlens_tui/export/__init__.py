"""Features as a file to take away: CSV, Parquet, JSON lines."""
