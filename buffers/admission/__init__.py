"""Admission: which rows a buffer keeps, and which it evicts for them.

``Admission`` is the contract. ``Reservoir``, ``Ring``, ``RandomInsert``, ``ClassBalanced`` and
``Herding`` are the rules.
"""

from __future__ import annotations

from buffers.admission.base import Admission
from buffers.admission.class_balanced import ClassBalanced
from buffers.admission.herding import Herding
from buffers.admission.reservoir import Reservoir
from buffers.admission.ring import RandomInsert, Ring

__all__ = ["Admission", "ClassBalanced", "Herding", "RandomInsert", "Reservoir", "Ring"]
