"""``python -m pipeline``: the command line of a checkout, without an install."""

from pipeline.cli.app import app

app()
