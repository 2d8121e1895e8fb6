"""Parquet and CSV files: their blocks from any row, and fingerprints of their first rows."""
