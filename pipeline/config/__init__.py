"""The job file: its schema, how it is read and what is refused."""
