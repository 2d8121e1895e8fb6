"""The fitted Hawkes process: one step by hand, its integral, and the truth of its own generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.sequences.controls.hawkes import Hawkes
from learners.sequences.forecast import cumulative, types_at
from pipeline.config.job import check
from pipeline.evaluation.online.sequence_metrics import log_likelihood
from pipeline.training.builder import Parts, build
from streams.core.batch import Batch, Floats
from streams.core.schema import Feature, Schema
from streams.core.state_dict import State
from streams.core.stream_config import SequenceConfig
from streams.integrations.sequences.hawkes import HawkesStream
from streams.operators.features.sequences import Sequences

USERS = Schema((Feature("user", "categorical"),), "classification", ("a", "b"))
CONFIG = SequenceConfig(by="user", length=8, keys=64)
B = np.array([0.5, 2.0])
MU, A, W = np.array([0.2, 0.1]), np.array([[0.3, 0.1], [0.2, 0.4]]), np.array([0.25, 0.75])
ALPHA = A[:, :, None] * W


def fitted(**settings: Any) -> Hawkes:
    """Return a process with known parameters, as if it had been fitted to 4 labels in 10 s."""
    schema = Sequences(CONFIG, USERS).schema(USERS)
    config = {"kind": "hawkes", "decays": 2, "half_life": None, "warm_up": 10, **settings}
    learner = Hawkes(Hawkes.Config.model_validate(config), schema, 0)
    state: State = {**learner.state(), "version": 1, "decays": B, "waits": np.zeros(0)}
    learner.load({**state, "labels": 0, "sums": SUMS})
    return learner


EXPOSED = np.full((2, 2), 3.0)
SUMS = {
    "base": MU * 10 - 0.5,  # with the prior of half an event of each type
    "caused": A * 4,  # the exposure of each type is 3, and that of the prior 1
    "kernels": 12 * W,
    "seconds": np.array(10.0),
    "exposed": EXPOSED,
}


def events() -> Batch:
    """Return three events of one key: types a, b and a at 0, 1 and 3 seconds."""
    x = {"user": np.zeros(3, np.int64)}
    time, y = np.array([0.0, 1.0, 3.0]), np.array([0, 1, 0])
    ids, part = np.arange(3), np.zeros(3, np.int32)
    batch = Batch(ids, time, x, part, ids, y, classes=("a", "b"))
    return Sequences(CONFIG, USERS).apply(batch)


EXCITED = np.array([[np.exp(-3 * b) + 1 for b in B], [np.exp(-2 * b) for b in B]])
"""(k, r) after the three events."""


def intensity(t: float) -> Floats:
    return MU + np.einsum("kjr,jr,r->k", ALPHA, EXCITED, B * np.exp(-B * t))


def test_forecast_is_the_intensity_of_the_process() -> None:
    """The integral is exact where cells begin; intensities are those of the middle of cells."""
    said = fitted(cells=200).predict(events()[2:])
    assert said.forecast is not None
    cells = said.forecast[0]
    for j in (1, 40, 120, 190):
        start, stop = cells[j, 0], cells[j + 1, 0] if j < 199 else np.inf
        t = np.linspace(0, start, 20_001)
        fine = np.trapezoid([intensity(each).sum() for each in t], t)
        assert cumulative(said.forecast, np.array([start])) == pytest.approx(fine, rel=1e-4)
        rates = intensity((start + stop) / 2)
        assert cells[j, 1] == pytest.approx(rates.sum(), rel=1e-3)
        kinds = types_at(said.forecast, np.zeros((1, 2)), np.array([(start + stop) / 2]))
        assert kinds[0] == pytest.approx(rates / rates.sum(), rel=1e-3)


def test_cells_cost_less_than_a_thousandth_of_a_nat() -> None:
    """Against 512 cells, the mean score of 48 cells is off by less than 0.001 nats."""
    waits = np.geomspace(0.01, 8, 400)
    rows = np.zeros(400, np.int64)
    event = events()[2:].take(rows)
    labelled = replace(event, y=rows, wait=waits)
    few, many = (
        log_likelihood(fitted(cells=cells).predict(event), labelled, fitted().schema)
        for cells in (48, 512)
    )
    density = np.exp(many) * np.gradient(waits)  # of type a, by the wait
    assert abs(((few - many) * density).sum() / density.sum()) < 0.001


FADE = 1 - 1 / (10 + 1 / 4)
"""Of the first label after a warm-up of ten."""


def test_label_is_shared_among_its_causes() -> None:
    """Type b after 2 s: each cause has its share of the intensity, each kernel its integral."""
    learner = fitted()
    learner._learn(replace(events()[2:], y=np.array([1]), wait=np.array([2.0])))
    sums = learner.state()["sums"]
    causes = ALPHA[1] * EXCITED * B * np.exp(-2 * B)
    total = MU[1] + causes.sum()
    assert intensity(2.0)[1] == pytest.approx(total)
    assert sums["base"] == pytest.approx(FADE * SUMS["base"] + [0, MU[1] / total])
    assert sums["caused"][1] == pytest.approx(FADE * SUMS["caused"][1] + causes.sum(1) / total)
    assert sums["caused"][0] == pytest.approx(FADE * SUMS["caused"][0])
    assert sums["kernels"] == pytest.approx(FADE * SUMS["kernels"] + causes.sum(0) / total)
    assert sums["exposed"] == pytest.approx(FADE * EXPOSED + EXCITED * (1 - np.exp(-2 * B)))
    assert sums["seconds"] == pytest.approx(FADE * 10 + 2)


def test_silence_counts_as_exposure_alone() -> None:
    learner = fitted()
    learner._learn(replace(events()[2:], y=np.array([-1]), wait=np.array([2.0])))
    sums = learner.state()["sums"]
    for name in ("base", "caused", "kernels"):
        assert sums[name] == pytest.approx(FADE * SUMS[name])
    assert sums["exposed"] == pytest.approx(FADE * EXPOSED + EXCITED * (1 - np.exp(-2 * B)))


def trained(**stream: Any) -> tuple[Parts, HawkesStream]:
    raw = {"name": "h", "seed": 1, "learner": {"kind": "hawkes"}}
    raw["stream"] = {"kind": "hawkes", **stream}
    parts = build(check(raw, Path("job.yaml"), Path()))
    for batch in parts.reader.read({}):
        parts.loop.step(batch)
    assert isinstance(parts.stream, HawkesStream)
    return parts, parts.stream


@pytest.mark.claims
@pytest.mark.parametrize(("seed", "gap"), [(0, 100.0), (1, 0.01), (2, 100.0)])
def test_fit_is_within_a_hundredth_of_the_truth(seed: int, gap: float) -> None:
    """On new users of its own generator, after one pass; whatever the unit of the times. The
    likelihood is taken with times in units of the mean gap, as nats depend on the unit."""
    parts, stream = trained(concepts=1, events=60_000, seed=seed, gap=gap)
    test = Batch.concat([stream.task_test(i) for i in range(stream.tasks)])
    learner = parts.loop.learner
    said = learner.predict(replace(test, y=None, wait=None))
    fit = -log_likelihood(said, test, learner.schema).mean() - np.log(gap)
    truth = np.nanmean(np.add(*stream.true_scores(stream.test))) - np.log(gap)
    assert abs(fit - truth) < 0.01 * truth
