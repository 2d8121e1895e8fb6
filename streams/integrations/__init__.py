"""Data sets of river and benchmarks of Avalanche as streams."""
