"""Errors of a run."""

from __future__ import annotations


class RunError(Exception):
    """The run failed; its state is kept, and the message says how to resume."""
