"""Errors of a job."""

from __future__ import annotations


class JobError(Exception):
    """The job cannot be run as it stands; one line for each thing to mend."""
