"""Admission: which rows a buffer keeps."""
