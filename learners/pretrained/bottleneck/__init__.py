"""The discrete key-value bottleneck: frozen keys fetch the few values that an event trains.

- ``learner`` has the method, ``DiscreteBottleneck`` (kind ``dkvb``).
- ``codebooks`` projects rows, fits keys, and finds the nearest ones.
- ``values`` holds what is trained.
- ``key_sample`` says where keys come from, and ``key_coverage`` whether they suit new events.
"""

from __future__ import annotations

from learners.pretrained.bottleneck.learner import DiscreteBottleneck
from learners.pretrained.bottleneck.settings import BottleneckConfig

__all__ = ["BottleneckConfig", "DiscreteBottleneck"]
