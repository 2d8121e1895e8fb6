"""The command line: one module a command, ``app`` that joins them, and the terminal they share."""
