"""Callbacks of a run: what observes it as it goes on."""
