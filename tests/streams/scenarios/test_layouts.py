"""Each kind of scenario, by count: who comes when, as what, and what is tested on."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chisquare

from streams.core.batch import Ragged
from streams.core.errors import StreamError
from streams.core.schema import Feature
from streams.scenarios.catalog import SCENARIOS
from streams.scenarios.datasets import DATASETS, Dataset
from streams.scenarios.layouts import Layout, PowerLawTasks, Tasks, make_plan
from streams.scenarios.plans import Plan
from streams.scenarios.transforms import Permuted, Rotated

KINDS: list[dict[str, Any]] = [
    {"kind": "iid"},
    {"kind": "split", "shuffle_classes": True},
    {"kind": "permuted", "tasks": 3},
    {"kind": "rotated", "tasks": 3},
    {"kind": "blurry"},
    {"kind": "contexts", "rounds": 2},
    {"kind": "power-law"},
    {"kind": "label-flips", "flipped": [2], "before": 500, "after": 1500},
    {"kind": "drift"},
    {"kind": "drift", "shape": "gradual", "width": 100},
    {"kind": "drift", "shape": "recurring", "phases": 8, "changes": "features"},
]


def dataset(kind: str = "image", n: int = 2000, classes: int = 10) -> Dataset:
    """n rows to train on and n // 5 to test on, of each class as many."""
    rng = np.random.default_rng(5)
    y = rng.permutation(np.arange(n) % classes)
    test_y = rng.permutation(np.arange(n // 5) % classes)
    feature = Feature("x", "vector", (6,))
    x: Any = rng.random((n, 6))
    test_x: Any = rng.random((n // 5, 6))
    if kind == "image":
        feature = Feature("x", "image", (1, 4, 4))
        x, test_x = (rng.integers(0, 256, (len(c), 1, 4, 4)).astype(np.uint8) for c in (y, test_y))
    elif kind == "text":
        feature = Feature("x", "text")
        x, test_x = (Ragged.of_text(map(str, codes)) for codes in (y, test_y))
    return Dataset("small", feature, x, y, test_x, test_y, tuple("abcdefghij"[:classes]), "nobody")


DATA = dataset()
N = len(DATA.train_y)


def layout(**tasks: Any) -> Layout:
    found: Layout = TypeAdapter(Tasks).validate_python(tasks)
    return found


def planned(data: Dataset = DATA, seed: int = 0, **given: Any) -> Plan:
    shared = {name: given.pop(name) for name in ("events", "label_noise") if name in given}
    return make_plan(data, layout(**given), seed, **shared)


def classes_of(plan: Plan, data: Dataset = DATA) -> list[set[int]]:
    """Of each task the classes of its training rows, as the data set has them."""
    codes = data.train_y[plan.index]
    return [set(codes[plan.segment == task].tolist()) for task in range(len(plan.tests))]


def asked_of(plan: Plan, data: Dataset = DATA) -> list[set[int]]:
    return [set(data.test_y[test.index].tolist()) for test in plan.tests]


@pytest.mark.parametrize("tasks", KINDS, ids=str)
def test_layouts_promises_hold_for_all(tasks: dict[str, Any]) -> None:
    plan = planned(**tasks)
    n = len(plan)
    assert {len(plan.y), len(plan.segment), len(plan.concept)} == {n}
    if tasks["kind"] not in ("permuted", "rotated"):
        assert len(set(plan.index.tolist())) == n
    starts = [start for start, _ in plan.begins]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    for (start, task), stop in zip(plan.begins, [*starts[1:], n], strict=True):
        assert stop > start
        assert (plan.segment[start:stop] == task).all()
    assert set(plan.segment.tolist()) == set(range(len(plan.tests)))
    whole = set(range(len(plan.labels or DATA.classes)))
    for test in plan.tests:
        assert len(test.y) == len(test.index) == len(set(test.index.tolist()))
        assert (set(test.y.tolist()) == whole) == plan.domain_incremental
    assert not (np.diff(plan.index[:50]) > 0).all(), "in order"


@pytest.mark.parametrize("tasks", KINDS, ids=str)
def test_plan_depends_on_the_seed_alone(tasks: dict[str, Any]) -> None:
    one, same, other = (planned(seed=seed, label_noise=0.1, **tasks) for seed in (3, 3, 4))
    for name in ("index", "y", "segment", "concept"):
        assert (getattr(one, name) == getattr(same, name)).all()
    assert one.begins == same.begins
    assert one.index.tolist() != other.index.tolist()


def test_iid() -> None:
    plan = planned(kind="iid")
    assert sorted(plan.index.tolist()) == list(range(N))
    assert plan.begins == ((0, 0),)
    assert len(planned(kind="iid", events=30)) == 30


def test_split() -> None:
    plan = planned(kind="split", tasks=3)
    groups = [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}]
    assert classes_of(plan) == asked_of(plan) == groups
    assert sorted(plan.index.tolist()) == list(range(N))
    assert plan.begins == ((0, 0), (800, 1), (1400, 2))
    assert (plan.y == DATA.train_y[plan.index]).all()
    assert [len(test.index) for test in plan.tests] == [160, 120, 120]
    assert not plan.domain_incremental
    assert planned(kind="split", tasks=1).domain_incremental


def test_split_in_an_order_of_the_seed() -> None:
    groups = {
        tuple(map(frozenset, classes_of(planned(seed=s, kind="split", shuffle_classes=True))))
        for s in range(5)
    }
    assert len(groups) == 5
    for found in groups:
        assert set().union(*found) == set(range(10))
        assert [len(classes) for classes in found] == [2] * 5


def test_at_most_so_many_events() -> None:
    plan = planned(kind="split", tasks=4, events=500)  # tasks of 3, 3, 2 and 2 classes of 200
    assert plan.begins == ((0, 0), (500, 1), (1000, 2), (1400, 3))
    assert len(plan) == 1800
    assert classes_of(plan) == [{0, 1, 2}, {3, 4, 5}, {6, 7}, {8, 9}]


def test_permuted() -> None:
    plan = planned(kind="permuted", tasks=4, events=500)
    assert isinstance(plan.transform, Permuted)
    places = plan.transform.places
    assert places.shape == (4, 16)
    assert places[0].tolist() == list(range(16))
    assert (np.sort(places) == np.arange(16)).all()
    assert len(set(map(tuple, places.tolist()))) == 4
    assert (plan.concept == plan.segment).all()
    assert [test.concept for test in plan.tests] == [0, 1, 2, 3]
    assert sorted(plan.index.tolist()) == list(range(N))  # 4 x 500: fresh to the last
    assert plan.domain_incremental


def test_samples_repeat_only_in_another_task() -> None:
    plan = planned(kind="permuted", tasks=3, events=1500)
    for task in range(3):
        assert len(set(plan.index[plan.segment == task].tolist())) == 1500
    plan = planned(kind="permuted", tasks=2)
    assert sorted(plan.index[:N].tolist()) == sorted(plan.index[N:].tolist()) == list(range(N))


def test_rotated() -> None:
    x = DATA.train_x
    assert isinstance(x, np.ndarray)
    for tasks in (
        {"kind": "rotated", "tasks": 3, "max_degrees": 180},
        {"kind": "rotated", "degrees": [0, 90, 180]},
    ):
        plan = planned(**tasks)
        assert isinstance(plan.transform, Rotated)
        for task in range(3):
            found = plan.transform(x[:5], np.full(5, task))
            assert (found == np.rot90(x[:5], task, (2, 3))).all()


def test_contexts() -> None:
    plan = planned(kind="contexts", tasks=3, labels=2, rounds=2)
    groups = [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}]
    assert classes_of(plan) == asked_of(plan) == groups
    assert plan.begins == ((0, 0), (400, 1), (700, 2), (1000, 0), (1400, 1), (1700, 2))
    assert sorted(plan.index.tolist()) == list(range(N))
    assert plan.labels == ("0", "1")
    pairs = set(zip(DATA.train_y[plan.index].tolist(), plan.y.tolist(), strict=True))
    label_of = dict(pairs)
    assert len(pairs) == 10, "a class has one label"
    for classes, test in zip(groups, plan.tests, strict=True):
        counts = Counter(label_of[code] for code in classes)
        assert sorted(counts) == [0, 1]
        assert max(counts.values()) - min(counts.values()) <= 1
        assert test.y.tolist() == [label_of[code] for code in DATA.test_y[test.index].tolist()]
    assert plan.domain_incremental


def test_contexts_in_an_order_and_with_labels_of_the_seed() -> None:
    plans = [planned(seed=seed, kind="contexts", tasks=2, labels=5) for seed in range(4)]
    assert len({tuple(plan.relabel[0].tolist()) for plan in plans if plan.relabel is not None}) == 4
    mixed = planned(kind="contexts", tasks=2, labels=5, shuffle_classes=True)
    assert classes_of(mixed) != classes_of(plans[0])


def test_noise_stays_within_the_labels_of_contexts() -> None:
    plan = planned(kind="contexts", tasks=5, labels=2, label_noise=0.5)
    assert set(plan.y.tolist()) == {0, 1}


@pytest.mark.parametrize("blur", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("disjoint", [0.0, 0.5, 1.0])
def test_blurry(disjoint: float, blur: float) -> None:
    for seed in range(5):
        plan = planned(seed=seed, kind="blurry", tasks=4, disjoint=disjoint, blur=blur)
        assert sorted(plan.index.tolist()) == list(range(N))
        own = asked_of(plan)
        assert all(own)
        assert sorted(code for classes in own for code in classes) == list(range(10))
        owner = np.array([next(t for t in range(4) if c in own[t]) for c in range(10)])
        away = plan.segment != owner[plan.y]
        # Half of 10 classes are blurry, each of 200 samples, and a share of those is away.
        assert away.sum() == round(blur * (1 - disjoint) * 10 * 200)
        blurry = set(plan.y[away].tolist())
        assert len(blurry) == (0 if blur == 0 else round((1 - disjoint) * 10))
        if away.any():
            step = (plan.segment - owner[plan.y])[away] % 4
            counts = np.bincount(step)[1:]
            assert chisquare(counts).pvalue > 1e-4, "some tasks are likelier than others"


def test_blurry_tasks_differ_in_size() -> None:
    """With 4 classes in 2 tasks there are three ways to cut; each is as likely as the others."""
    data = dataset(n=40, classes=4)
    sizes = Counter(
        len(asked_of(planned(data, seed=seed, kind="blurry", tasks=2), data)[0])
        for seed in range(600)
    )
    assert set(sizes) == {1, 2, 3}
    assert chisquare(list(sizes.values())).pvalue > 0.01


def test_power_law() -> None:
    plan = planned(kind="power-law", tasks=5, phases=20)
    assert sorted(plan.index.tolist()) == list(range(N))
    tasks = [task for _, task in plan.begins]
    assert len(tasks) == 20
    assert [tasks.index(task) for task in range(5)] == [0, 4, 8, 12, 16]
    assert classes_of(plan) == asked_of(plan) == [{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}]
    lengths = np.diff([start for start, _ in plan.begins] + [len(plan)])
    for task in range(5):  # 400 samples over its visits
        mine = lengths[np.array(tasks) == task]
        assert mine.sum() == 400
        assert mine.max() - mine.min() <= 1
    capped = planned(kind="power-law", tasks=5, phases=20, events=30)
    assert np.diff([start for start, _ in capped.begins] + [len(capped)]).max() == 30


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_revisits_follow_the_law(exponent: float) -> None:
    """Chi-square of how often the most recently seen task came, the second, and so on."""
    settings = PowerLawTasks(kind="power-law", tasks=6, phases=6000, exponent=exponent)
    visits = settings.visits(np.random.default_rng(1)).tolist()
    introduced = {t * 1000: t for t in range(6)}
    last: dict[int, int] = {}
    counts, law, flat = np.zeros(6), np.zeros(6), np.zeros(6)
    for phase, task in enumerate(visits):
        if phase in introduced:
            assert task == introduced[phase]
        else:
            ages = sorted((phase - seen, t) for t, seen in last.items())
            weights = np.array([float(age) ** -exponent for age, _ in ages])
            counts[[t for _, t in ages].index(task)] += 1
            law[: len(ages)] += weights / weights.sum()
            flat[: len(ages)] += 1 / len(ages)
        last[task] = phase
    assert chisquare(counts, law).pvalue > 0.01
    assert chisquare(counts, flat).pvalue < 1e-9


def test_sudden_drift_of_labels() -> None:
    plan = planned(kind="drift", shape="sudden", concepts=4)
    assert plan.relabel is not None
    assert plan.relabel[0].tolist() == list(range(10))
    assert (np.sort(plan.relabel) == np.arange(10)).all()
    assert len(set(map(tuple, plan.relabel.tolist()))) == 4
    assert plan.begins == ((0, 0), (500, 1), (1000, 2), (1500, 3))
    assert (plan.segment == np.repeat(range(4), 500)).all()
    assert (plan.concept == plan.segment).all()
    for row in (0, 700, 1999):
        code = DATA.train_y[plan.index[row]]
        assert plan.y[row] == plan.relabel[row // 500][code]
    for concept, test in enumerate(plan.tests):
        assert test.concept == concept
        assert test.y.tolist() == [plan.relabel[concept][c] for c in DATA.test_y[test.index]]
    assert plan.transform is None
    assert plan.domain_incremental


def test_label_flips() -> None:
    plan = planned(kind="label-flips", flipped=[2, 7], before=1500, after=3000)
    code = DATA.train_y[plan.index]
    assert np.bincount(plan.index, minlength=N).tolist() == pytest.approx([2.25] * N, abs=0.75)
    assert plan.begins == ((0, 0), (1500, 1))
    assert (plan.y[:1500] == code[:1500] % 2).all()
    flipped = np.isin(code, [2, 7])
    assert (plan.y[1500:] == (code + flipped)[1500:] % 2).all()
    before, after = plan.tests
    assert set(DATA.test_y[before.y != after.y].tolist()) == {2, 7}
    assert planned(kind="label-flips", flipped=[2], events=100).begins == ((0, 0), (100, 1))


def test_label_flips_names_classes_and_labels_that_there_are_not() -> None:
    with pytest.raises(StreamError, match=r"flipped: small has the classes 0 to 9"):
        planned(kind="label-flips", flipped=[10])
    with pytest.raises(StreamError, match=r"labels: 11 labels, but small has 10 classes"):
        planned(kind="label-flips", flipped=[1], labels=11)


def test_drift_of_features() -> None:
    plan = planned(dataset("vector"), kind="drift", concepts=3, changes="features")
    assert isinstance(plan.transform, Permuted)
    assert plan.transform.places.shape == (3, 6)
    assert plan.relabel is None
    assert (plan.y == dataset("vector").train_y[plan.index]).all()


def test_recurring_drift() -> None:
    plan = planned(kind="drift", shape="recurring", concepts=3, phases=7, events=100)
    assert plan.begins == tuple((phase * 100, phase % 3) for phase in range(7))
    assert (plan.concept == np.repeat([0, 1, 2, 0, 1, 2, 0], 100)).all()
    assert len(plan.tests) == 3


def test_gradual_drift_mixes_by_the_logistic() -> None:
    """At the change half of the rows are of the new concept; width / 4 later 1 / (1 + 1/e)."""
    data = dataset(n=100_000)
    plan = planned(data, kind="drift", shape="gradual", concepts=2, width=8000)
    assert (plan.segment == np.repeat([0, 1], 50_000)).all()
    for at, share in ((-2000, 0.2689), (0, 0.5), (2000, 0.7311), (4000, 0.8808)):
        rows = plan.concept[50_000 + at - 250 : 50_000 + at + 250]
        assert rows.mean() == pytest.approx(share, abs=4 * (share * (1 - share) / 500) ** 0.5)
    assert not plan.concept[:30_000].any()
    assert plan.concept[70_000:].all()
    assert plan.relabel is not None
    assert (plan.y == plan.relabel[plan.concept, data.train_y[plan.index]]).all()


def test_gradual_drift_of_many_concepts_visits_all() -> None:
    data = dataset(n=9000)
    plan = planned(data, kind="drift", shape="gradual", concepts=3, width=400)
    for phase in range(3):
        middle = plan.concept[phase * 3000 + 1000 : phase * 3000 + 2000]
        assert (middle == phase).all()


def test_label_noise() -> None:
    clean = planned(kind="split")
    noisy = planned(kind="split", label_noise=0.3)
    assert (noisy.index == clean.index).all()
    wrong = noisy.y != clean.y
    assert wrong.sum() == 600  # of 2000
    steps = (noisy.y - clean.y)[wrong] % 10
    assert chisquare(np.bincount(steps, minlength=10)[1:]).pvalue > 0.01
    for before, after in zip(clean.tests, noisy.tests, strict=True):
        assert (before.y == after.y).all()


@pytest.mark.parametrize(
    ("tasks", "kind", "message"),
    [
        ({"kind": "split", "tasks": 11}, "image", "stream.tasks.tasks: 11 tasks, but small has 10"),
        ({"kind": "blurry", "tasks": 11}, "image", "11 tasks, but small has 10 classes"),
        ({"kind": "contexts", "labels": 3}, "image", "3 labels, but task 0 of small has 2 classes"),
        ({"kind": "contexts", "rounds": 401}, "image", "400 samples for 401 visits"),
        ({"kind": "rotated"}, "vector", "'rotated' turns images"),
        ({"kind": "permuted"}, "text", "small is text"),
        ({"kind": "permuted", "tasks": 721}, "vector", "6 places have fewer than 721"),
        ({"kind": "drift", "changes": "features"}, "text", "small is text"),
        (
            {"kind": "drift", "shape": "recurring", "phases": 3000},
            "image",
            "3000 phases, but small",
        ),
        ({"kind": "power-law", "phases": 5000}, "image", "400 samples for"),
    ],
)
def test_layout_that_does_not_fit_is_refused(
    tasks: dict[str, Any], kind: str, message: str
) -> None:
    with pytest.raises(StreamError, match=message):
        planned(dataset(kind), **tasks)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"kind": "drift", "shape": "gradual"}, "a gradual drift needs width"),
        ({"kind": "drift", "width": 5}, "a sudden drift has no width"),
        ({"kind": "drift", "phases": 5}, "a sudden drift has no phases"),
        ({"kind": "drift", "shape": "recurring", "phases": 2}, "4 concepts need at least"),
        ({"kind": "power-law", "phases": 4}, "5 tasks need at least"),
        ({"kind": "rotated", "degrees": [1, 2], "tasks": 3}, "either degrees, or tasks"),
        ({"kind": "splitt"}, "splitt"),
    ],
)
def test_settings_that_make_no_sense(tasks: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        layout(**tasks)


def test_named_scenarios_are_whole() -> None:
    for settings in SCENARIOS.values():
        assert settings["dataset"] in DATASETS
        assert layout(**settings["tasks"])
        assert set(settings) <= {"dataset", "tasks", "events", "label_noise"}


def test_the_documentation_knows_them_all() -> None:
    """Its table says of each what the name stands for, to the letter."""
    page = Path(__file__).parents[3] / "docs" / "scenarios.md"
    found = re.findall(r"^\| `(\S+)` \| `(.*?)` \|", page.read_text(), re.M)
    assert dict(found) == {name: shown(settings) for name, settings in SCENARIOS.items()}


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    return str(value)
