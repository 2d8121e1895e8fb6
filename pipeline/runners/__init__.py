"""Runners: a run in this process, or as actors on Ray."""
