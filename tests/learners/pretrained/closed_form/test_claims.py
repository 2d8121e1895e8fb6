"""What is claimed of closed forms on CLINC150: 150 intents, in the order of 10 tasks, in one pass.

The numbers to reach are of plain NumPy on the same vectors, from all training events at once.
"""

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
from streams.core.batch import Array, Batch, ClassName, Ragged
from streams.core.schema import Feature, Schema
from tests.learners.pretrained.closed_form.problems import learn

DATA = Path(os.environ.get("EVERLEARN_DATA") or Path(__file__).parents[5] / "shared" / "data")
CLINC = DATA / "clinc150_full.json.gz"
pytestmark = [pytest.mark.claims, pytest.mark.timeout(900)]


class Clinc(NamedTuple):
    """The training events in the order of tasks, the test events, and the columns of both."""

    train: Batch
    test: Batch
    schema: Schema


def events(x: Array, y: Array, classes: tuple[ClassName, ...]) -> Batch:
    at = np.arange(len(x))
    return Batch(at, at * 1.0, x, np.zeros(len(x), np.int32), at, y, classes=classes)


@pytest.fixture(scope="module")
def clinc() -> Clinc:
    if not CLINC.exists():
        pytest.skip(f"{CLINC.name} is not on this machine: name its folder in EVERLEARN_DATA")
    pytest.importorskip("transformers")
    data = json.loads(gzip.decompress(CLINC.read_bytes()))
    encoder = load_encoder({"kind": "minilm"}, Feature("text", "text"), 0)
    names = np.random.default_rng(0).permutation(sorted({name for _, name in data["train"]}))
    codes = {name: code for code, name in enumerate(names.tolist())}
    parts = []
    for part in ("train", "test"):
        y = np.array([codes[name] for _, name in data[part]])
        x = encoder.encode(Ragged.of_text(text for text, _ in data[part]))
        rows = np.random.default_rng(1).permutation(len(y))
        rows = rows[np.argsort(y[rows] // 15, kind="stable")]
        parts.append(events(np.ascontiguousarray(x[rows]), y[rows], tuple(codes)))
    vector = Feature("text", "vector", (encoder.dimension,), unit=encoder.unit)
    return Clinc(parts[0], parts[1], Schema((vector,), "classification"))


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"kind": "prototype"}, 0.915),
        ({"kind": "slda"}, 0.929),
        ({"kind": "slda", "shrinkage": 1e-4}, 0.930),
        ({"kind": "fecam"}, 0.930),
    ],
)
def test_accuracy_on_clinc_is_that_of_all_events_at_once(
    clinc: Clinc, settings: dict[str, Any], least: float
) -> None:
    cls = find(learners.KINDS, Learner, settings["kind"])  # type: ignore[type-abstract]
    learner = learn(cls(cls.Config.model_validate(settings), clinc.schema, 0), clinc.train, 64)
    prediction = learner.predict(replace(clinc.test, y=None))
    assert clinc.test.y is not None
    assert prediction.proba is not None
    accuracy = float((prediction.value == clinc.test.y).mean())
    likelihood = prediction.proba[np.arange(len(clinc.test)), clinc.test.y]
    loss = float(-np.log(np.maximum(likelihood, 1e-7)).mean())
    assert accuracy >= least
    assert loss <= 0.33, "its probabilities are not honest"
