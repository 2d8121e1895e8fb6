"""Bytes to columns to batches: message formats, column types, the decoder."""
