"""Streams from Parquet and CSV files."""
