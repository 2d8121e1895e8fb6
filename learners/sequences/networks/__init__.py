"""Networks that predict the next event of a key from its history."""
