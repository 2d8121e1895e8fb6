"""A live run written to Parquet and read back exactly."""
