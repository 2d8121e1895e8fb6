"""Messages that cannot be used: kept in a file, sent to a topic, listed, sent again."""
