"""Error memories: recent errors of a model, found again by similar keys.

``SimHash`` gives hashes that similar directions share.
"""

from __future__ import annotations

from buffers.errors.sim_hash import SimHash, collision_rate

__all__ = ["SimHash", "collision_rate"]
