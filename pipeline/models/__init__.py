"""What a server needs of a model: its recipe and its snapshots."""
