import re
from typing import Any

import pytest
from pydantic import ValidationError

from buffers.rules import ADMISSIONS, RECALLS
from learners.memory import BufferConfig


@pytest.mark.parametrize("recall", RECALLS)
@pytest.mark.parametrize("admission", ADMISSIONS)
def test_any_admission_goes_with_any_recall(admission: str, recall: str) -> None:
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
        ("experiments.controls:Reversed", {"floor": 0.3}),
    ],
)
def test_settings_are_those_of_the_rule(recall: str, settings: dict[str, Any]) -> None:
    rule = BufferConfig(capacity=10, recall={"kind": recall, **settings}).rule()
    assert {name: getattr(rule, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("recall", "message"),
    [
        ({"kind": "forgetting-curve", "growth": 1}, "growth: 1.0 was given, more than 1"),
        ({"kind": "power-law", "horizon": 1.5}, "horizon: Input should be a valid integer"),
        ({"kind": "exponential", "rat": 1}, "unknown key 'rat': did you mean 'rate'?"),
        ({"kind": "view-batch", "views": 4}, "unknown key 'views'"),
        ("forgeting-curve", "did you mean 'forgetting-curve'?"),
        ("buffers.admission:Ring", "not a subclass of buffers.recall.Recall"),
    ],
)
def test_what_does_not_fit_is_named(recall: str | dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        BufferConfig(recall=recall)
