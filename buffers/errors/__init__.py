"""Error memories: recent labels and what a model had predicted, found again by similar keys.

- ``ErrorMemory`` is the contract; ``LabelledKeys`` are written, ``Recalled`` is read.
- ``ErrorRing`` keeps the last events and searches them exactly, ``index`` in part, with FAISS.
- ``ErrorSketch`` keeps sums by ``SimHash``, hashes that similar directions share.
- ``grid`` makes products of keys exact.
"""

from __future__ import annotations

from buffers.errors.base import ErrorMemory, LabelledKeys, Recalled
from buffers.errors.ring import ErrorRing
from buffers.errors.sim_hash import SimHash, collision_rate
from buffers.errors.sketch import ErrorSketch

__all__ = [
    "ErrorMemory",
    "ErrorRing",
    "ErrorSketch",
    "LabelledKeys",
    "Recalled",
    "SimHash",
    "collision_rate",
]
