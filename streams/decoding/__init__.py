"""From bytes to a batch: formats turn messages into columns, ``Decoder`` turns these into rows."""

from __future__ import annotations

from streams.decoding.decoder import Columns, Decoder, NamedColumn

__all__ = ["Columns", "Decoder", "NamedColumn"]
