"""Recall: which rows of a buffer are sampled."""
