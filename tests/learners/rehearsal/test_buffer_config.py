import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from buffers.recall.base import Ints, Recall
from buffers.registry import ADMISSIONS, RECALLS
from learners.rehearsal.buffer_config import BufferConfig
from learners.rehearsal.view_batch import ViewBatchBuffer


class Nameless(Recall):
    def draw(self, k: int, filled: int, rng: np.random.Generator) -> Ints:
        return np.arange(min(k, filled))


class Exits(Nameless):
    name = "exits"

    def __init__(self, capacity: int, views: int = 1) -> None:
        raise SystemExit(3)


class OneView(Nameless):
    name = "one-view"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)


def test_recall_with_settings_states_all_of_them() -> None:
    """So that equal jobs have equal fingerprints, and a default that changes is noticed."""
    whole = {"kind": "exponential", "rate": 3.0, "horizon": None}
    for given in ("exponential", {"kind": "exponential"}, {"kind": "exponential", "rate": 3}):
        assert BufferConfig(recall=given).recall == whole
    assert BufferConfig(recall={"kind": "uniform"}).recall == "uniform"
    assert ViewBatchBuffer().recall == {"kind": "view-batch", "rest": False}


@pytest.mark.parametrize("recall", RECALLS)
@pytest.mark.parametrize("admission", ADMISSIONS)
def test_any_admission_combines_with_any_recall(admission: str, recall: str) -> None:
    buffer = BufferConfig(capacity=10, admission=admission, recall=recall).build(0, views=3)
    assert (buffer.admission.name, buffer.recall.name) == (admission, recall)
    assert buffer.recall.views == 3


@pytest.mark.parametrize(
    ("recall", "settings"),
    [
        ("forgetting-curve", {"growth": 3, "strongest": 27.0, "floor": 0.2}),
        ("power-law", {"exponent": 2, "grain": 0.5, "horizon": 1000}),
        ("exponential", {"rate": 1.5, "horizon": None}),
        ("highest-loss", {"pool": 4}),
        ("experiments.studies.controls:Reversed", {"floor": 0.3}),
    ],
)
def test_settings_reach_the_rule(recall: str, settings: dict[str, Any]) -> None:
    rule = BufferConfig(capacity=10, recall={"kind": recall, **settings}).rule()
    assert {name: getattr(rule, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("recall", "message"),
    [
        ({"kind": "forgetting-curve", "growth": 1}, "growth: 1.0 was given, more than 1"),
        ({"kind": "power-law", "horizon": 1.5}, "horizon: 1.5: Input should be a valid integer"),
        ({"kind": "exponential", "rat": 1}, "unknown key 'rat': did you mean 'rate'?"),
        ({"kind": "view-batch", "views": 4}, "unknown key 'views'"),
        (
            {"kind": "forgetting-curve", "cycles": "0.5"},
            "cycles: '0.5': Input should be a valid number",
        ),
        (
            {"kind": "forgetting-curve", "cycles": True},
            "cycles: True: Input should be a valid number",
        ),
        ({"kind": "exponential", "rate": float("nan")}, "rate: nan: a finite number is wanted"),
        (
            {"kind": "highest-loss", "pool": 10**20},
            "pool: 100000000000000000000 was given, 2 to 1000",
        ),
        ({"kind": "uniform", "x": 3}, "unknown key 'x': uniform has no settings"),
        ({"kind": [1]}, "'[1]': There are: uniform"),
        ({}, "kind: which rule? There are: uniform"),
        ([1, 2], "[1, 2]: the name of a rule, or a mapping with its kind, is wanted"),
        (None, "None: the name of a rule"),
        (
            "buffers.recall.base:Recall",
            "buffers.recall.base:Recall is abstract: it does not define draw",
        ),
        (f"{__name__}:Nameless", "has no name: state one in the class"),
        (f"{__name__}:Exits", "cannot be made: SystemExit: 3"),
        (f"{__name__}:OneView", "cannot be made: TypeError"),
        ("forgeting-curve", "did you mean 'forgetting-curve'?"),
        ("buffers.admission.ring:Ring", "not a subclass of buffers.recall.base.Recall"),
    ],
)
def test_unfit_settings_raise_with_name(recall: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        BufferConfig(recall=recall)
