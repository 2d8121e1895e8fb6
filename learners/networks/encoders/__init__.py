"""Encoders: how the columns of each kind reach a network.

``ColumnEncoder`` is the interface. ``Numbers``, ``Categories`` and ``Indicators``, ``Texts``,
``Times``, ``Vectors``, ``UnitVectors`` and ``Images`` encode the columns of one kind each.
"""

from __future__ import annotations

from learners.networks.encoders.base import ColumnEncoder, Rows
from learners.networks.encoders.categories import Categories, Indicators
from learners.networks.encoders.numbers import Numbers
from learners.networks.encoders.texts import Texts
from learners.networks.encoders.times import Times
from learners.networks.encoders.vectors import Images, UnitVectors, Vectors

__all__ = [
    "Categories",
    "ColumnEncoder",
    "Images",
    "Indicators",
    "Numbers",
    "Rows",
    "Texts",
    "Times",
    "UnitVectors",
    "Vectors",
]
