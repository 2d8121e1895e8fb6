"""Kafka topics as a stream, with offsets kept in our own checkpoints."""
