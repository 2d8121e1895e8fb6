"""Data sets of other libraries as streams. The libraries are imported when a stream is made."""

from __future__ import annotations

from streams.integrations.avalanche import AvalancheStream, AvalancheStreamConfig
from streams.integrations.river import RiverStream, RiverStreamConfig

__all__ = ["AvalancheStream", "AvalancheStreamConfig", "RiverStream", "RiverStreamConfig"]
