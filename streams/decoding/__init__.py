"""From bytes to a batch: formats turn messages into columns, ``Decoder`` turns these into rows.

``time_reader`` turns times into seconds, and ``wrong_times`` finds those that are far ahead.
"""

from __future__ import annotations

from streams.decoding.decoder import Columns, Decoder, NamedColumn

__all__ = ["Columns", "Decoder", "NamedColumn"]
