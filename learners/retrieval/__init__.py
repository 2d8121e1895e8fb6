"""Learners that correct another learner by its recent errors, without a gradient step.

- ``error_memory``: by the labels of similar events (``buffers.errors``); ``keys`` says what is
  similar, ``mixing`` how far to follow.
- ``segment_residuals``: by exponentially weighted errors in the segments of an event.
- ``pools`` weighs what corrects a base by weights learned online.
- ``wrapper`` is the base of both: it wraps any learner, on its own cadence (``slow_base``), and
  notes predictions until their labels come (``noted``).
"""
