"""Data sets as streams of tasks: layouts, plans, transforms and downloads."""
