"""Learners by prompts over a small random transformer, and steps of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from learners.checks.case import Case, with_example_settings
from learners.pretrained.tuned.base import TunedLearner
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema

TEXT = Schema((Feature("text", "text"),), "classification")
BLOCKS = {"kind": "random-transformer", "width": 16, "blocks": 3, "max_tokens": 8}


def learner(cls: type[TunedLearner], seed: int = 1, **settings: Any) -> Any:
    """Return a learner over three blocks, the last two of them with prompts."""
    stated = {"kind": cls.kind, "backbone": BLOCKS, "first_block": 1, "cache_mb": 1, **settings}
    return cls(cls.Config.model_validate(stated), TEXT, seed)


def stream(cls: type[TunedLearner], n: int = 64, seed: int = 0) -> Batch:
    """Return n events with labels, of three classes."""
    return Case(cls, "classification", with_example_settings(cls)).stream(n, seed)


def queries_of(made: Any, batch: Batch) -> torch.Tensor:
    """Return the queries (n, width) of events."""
    queries = made._trunk(torch.from_numpy(made.rows(batch)))[1]
    assert isinstance(queries, torch.Tensor)
    return queries


def moved_rows(before: torch.Tensor, after: torch.Tensor) -> set[int]:
    """Return which rows of a parameter have other bits than before."""
    changed = (before != after.detach()).flatten(1).any(1)
    return set(np.flatnonzero(changed.numpy()).tolist())
