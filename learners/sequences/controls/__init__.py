"""Controls of task sequences: what any model of sequences must beat. Each is one closed form."""
