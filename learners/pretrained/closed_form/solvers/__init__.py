"""Solvers: weights from sums. ``covariance`` shrinks and solves, ``ridge`` chooses a ridge, and
``linear`` scores rows."""
