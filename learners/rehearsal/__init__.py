"""Learners that replay what a buffer keeps."""
