"""Learners that correct another learner by its recent errors, without a gradient step.

- ``error_memory``: by the labels of similar events (``buffers.errors``); ``keys`` says what is
  similar, ``mixing`` how far to follow.
- ``wrapper`` is the base of both: it wraps any learner, on its own cadence (``slow_base``), and
  notes predictions until their labels come (``noted``).
"""
