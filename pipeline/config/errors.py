"""The error of a job file."""

from __future__ import annotations


class JobError(Exception):
    """The job cannot be run as it is: the message has a line for each problem."""
