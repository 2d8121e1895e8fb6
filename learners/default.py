"""The learner of a job that names none."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

_SETTINGS: dict[str, Any] = {
    "kind": "replay",
    "model": {"kind": "mlp", "hidden": [128, 128]},
    "optimizer": {"kind": "adam", "lr": 0.001, "lr_start": 0.005},
    "inputs": {"bins": 16, "wide": True},
    "steps": 1,
    "replay_size": 32,
    "buffer": {"capacity": 20_000, "admission": "reservoir"},
}


def default_settings() -> dict[str, Any]:
    """Return the settings of the default learner, as they would stand under ``learner:``.

    One network for any columns: tables, texts, vectors and images. What a job file writes under
    ``learner`` with a kind starts from the defaults of that kind instead.
    """
    return deepcopy(_SETTINGS)
