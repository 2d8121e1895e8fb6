"""A small file of event sequences, and a job over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

SEQUENCE = {"by": "user", "length": 8, "keys": 64, "horizon": 4.0, "expire": 6.0}


def write_events(file: Path, n: int = 1500, users: int = 60, seed: int = 0) -> None:
    """Write n events of types a, b and c; some at equal times, some out of order by up to 0.5 s."""
    rng = np.random.default_rng(seed)
    gaps = np.where(rng.random(n) < 0.2, 0.0, rng.exponential(0.05, n))
    time = np.cumsum(gaps) - np.where(rng.random(n) < 0.1, rng.uniform(0, 0.5, n), 0.0)
    user = rng.integers(0, users, n)
    kind = np.where(rng.random(n) < 0.5, user % 3, rng.integers(0, 3, n))
    rows = [f"{1e9 + t:.6f},u{u},{'abc'[k]}" for t, u, k in zip(time, user, kind, strict=True)]
    file.write_text("\n".join(["time,user,type", *rows]) + "\n")


def sequence_job(file: Path, learner: dict[str, Any], **stream: Any) -> Path:
    """Write a job over ``events.csv`` beside it; return its path."""
    settings = {"kind": "recorded", "path": "events.csv", "label": "type", "time": "time"}
    settings |= {"features": ["user"], "lateness": 0.5, "sequence": SEQUENCE, **stream}
    job = {"name": "events", "seed": 1, "stream": settings, "learner": learner}
    job["checkpoint"] = {"every_events": 400}
    job["evaluate"] = {"probes": {"share": 0.1}}
    file.write_text(yaml.safe_dump(job))
    return file
