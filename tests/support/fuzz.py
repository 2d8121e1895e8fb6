"""On how many examples a property is tried: on twenty times as many by `make soak`."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time, and nothing kept from run to run.
SAME, SOAK = "same", "soak"
settings.register_profile(SAME, derandomize=True, database=None, deadline=None, max_examples=50)
settings.register_profile(SOAK, settings.get_profile(SAME), max_examples=1000)


def examples(part: float) -> settings:
    """That part of as many as a property is tried on where it states nothing."""
    return settings(max_examples=round(part * settings.default.max_examples))
