"""A run: the loop, its source, checkpoints, resume and summary."""
