"""The HTTP server: requests, predictions, labels, and how they are scored."""
