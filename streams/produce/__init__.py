"""`everlearn produce`: a file sent to a topic, with delays, drift and faults."""
