"""The learner of a job that names none."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

MICRO_BATCH = 32
"""Events in a micro-batch, for which the rates are stated."""
LARGEST = 128
"""Events in the largest micro-batch of a job without settings."""

_SETTINGS: dict[str, Any] = {
    "kind": "replay",
    "model": {"kind": "mlp", "hidden": [128]},
    "optimizer": {"kind": "adam", "lr": 0.001, "lr_start": 0.005, "lr_steps": 100},
    "inputs": {"bins": 16, "wide": True},
    "steps": 1,
    "replay_size": 32,
    "buffer": {"capacity": 20_000, "admission": "reservoir"},
}


def default_settings(batch_size: int = MICRO_BATCH) -> dict[str, Any]:
    """Return the settings of the default learner, as they would stand under ``learner:``.

    One network for any columns: tables, texts, vectors and images. What a job file writes under
    ``learner`` with a kind starts from the defaults of that kind instead.

    The rates grow with the root of the micro-batch, as suits Adam (Malladi et al. 2022, "On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms"), and fall within as many events.

    Args:
        batch_size: events in a micro-batch.
    """
    settings = deepcopy(_SETTINGS)
    times = batch_size / MICRO_BATCH
    optimizer = settings["optimizer"]
    for name in ("lr", "lr_start"):
        optimizer[name] = float(f"{optimizer[name] * times**0.5:.2g}")
    optimizer["lr_steps"] = max(round(optimizer["lr_steps"] / times), 1)
    return settings


def default_batch_size(delay: int | None) -> int:
    """Return the events of a micro-batch where a job states neither it nor a learner.

    A model is frozen within a micro-batch. Where labels come ``delay`` events late anyway, a
    micro-batch of up to that many events loses little, and costs much less for each event.

    Args:
        delay: of the labels, in events; None: they are late, but by how many events is not known.
    """
    return 2 * MICRO_BATCH if delay is None else min(max(delay, MICRO_BATCH), LARGEST)
