"""The Ray runner: its actors, its driver and its connection to a cluster."""
