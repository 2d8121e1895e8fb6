"""Models of river and strategies of Avalanche as learners, and ours as a strategy of Avalanche."""
