"""What a run writes to disk: its folder, checkpoints, journal, metric log and recording."""
