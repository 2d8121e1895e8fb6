"""Operators that change or add features."""
