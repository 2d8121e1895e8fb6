"""Statistics of numbers that come one after another: their mean, their bins, and its change.

- ``running_moments`` holds mean and deviation, and ``quantile_bins`` bins of equal counts.
- ``adwin`` finds where a mean has changed.
"""
