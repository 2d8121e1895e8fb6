"""Every continual metric against numbers worked out by hand, and against its definition in loops
over a whole history."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.transfer_and_forgetting import (
    ContinualMetrics,
    Curves,
    continual,
    knowledge,
)
from streams.core.batch import Array
from streams.core.state_dict import copied, digest, leaves

NAN = float("nan")
Step = tuple[Any, ...]  # ("begin", untrained, task) or ("add", events, accuracy, ended)


def fold(steps: list[Step], curves: Curves | None = None) -> Curves:
    curves = curves or Curves()
    for name, *args in steps:
        getattr(curves, name)(*args)
    return curves


def same(metrics: ContinualMetrics, expected: dict[str, float], close: float = 1e-12) -> None:
    values = asdict(metrics)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=close, nan_ok=True), name


def test_results_of_three_tasks_by_hand() -> None:
    matrix = np.array([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.6, 0.5, 0.85]])
    metrics = continual(matrix, np.array([0.1, 0.1, 0.2]))
    same(
        metrics,
        {
            "acc": 0.65,  # (.6 + .5 + .85) / 3
            "aia": 2.3 / 3,  # (.9 + (.7 + .8) / 2 + .65) / 3
            "bwt": -0.3,  # ((.6 - .9) + (.5 - .8)) / 2
            "fwt": 0.1,  # ((.2 - .1) + (.3 - .2)) / 2
            "forgetting": 0.3,  # ((max(.9, .7) - .6) + (.8 - .5)) / 2
            "forgetting_initial": 0.3,  # no task was ever better than at first
            "learning_accuracy": 0.85,  # (.9 + .8 + .85) / 3
            "aaa": NAN,
            "min_acc": NAN,
            "wc_acc": NAN,
            "gap_depth": NAN,
            "windowed_forgetting_10": NAN,
        },
    )
    assert metrics.named() == {
        "stability/acc": metrics.acc,
        "stability/aia": metrics.aia,
        "stability/bwt": metrics.bwt,
        "plasticity/fwt": metrics.fwt,
        "stability/forgetting": metrics.forgetting,
        "stability/forgetting_initial": metrics.forgetting_initial,
        "plasticity/learning_accuracy": metrics.learning_accuracy,
    }


FOUR = np.array(
    [
        [0.80, NAN, NAN, NAN],
        [0.90, 0.70, NAN, NAN],
        [0.60, 0.75, 0.90, NAN],
        [0.70, 0.50, 0.80, 0.95],
    ]
)


def test_results_of_tasks_that_improve_before_forgetting() -> None:
    same(
        continual(FOUR),
        {
            "acc": 0.7375,  # 2.95 / 4
            "aia": 0.771875,  # (.8 + .8 + 2.25 / 3 + .7375) / 4
            "bwt": -0.4 / 3,  # (-.1 - .2 - .1) / 3
            "fwt": NAN,
            "forgetting": 0.55 / 3,  # ((.9 - .7) + (.75 - .5) + (.9 - .8)) / 3
            "forgetting_initial": 0.4 / 3,
            "learning_accuracy": 0.8375,  # (.8 + .7 + .9 + .95) / 4
        },
    )
    # The last row is not among the rows of the maximum: what got better counts as less than 0.
    same(continual(np.array([[0.5, 0], [0.6, 0.5]])), {"forgetting": -0.1, "bwt": 0.1})


ANYTIME: list[Step] = [
    ("begin", NAN, None),
    ("add", 100, [0.5], False),
    ("add", 200, [0.9], True),
    ("begin", NAN, None),
    ("add", 300, [0.4, 0.3], False),
    ("add", 400, [0.2, 0.6], False),
    ("add", 500, [0.5, 0.7], False),
    ("add", 600, [0.7, 0.8], False),
    ("add", 700, [0.6, 0.9], True),
]


def test_results_of_anytime_curves_by_hand() -> None:
    expected = {
        "aaa": 4.25 / 7,  # (.5 + .9 + .35 + .4 + .6 + .75 + .75) / 7
        "min_acc": 0.2,
        "wc_acc": 0.55,  # .9 / 2 + .2 / 2
        "gap_depth": 0.7,  # .9 - .2
        "gap_recovery": 0.4,  # .6 - .2
        "gap_recovery_events": 200,  # .6 is first reached after 600 events, the minimum after 400
        # Task 0 falls most from .9 to .2, task 1 only rises, least by .1: (.7 - .1) / 2.
        "windowed_forgetting_10": 0.3,
        "windowed_forgetting_100": 0.3,
        "windowed_plasticity_10": 0.55,  # (.2 to .7 and .3 to .9) / 2
        "windowed_plasticity_100": 0.55,
        "forgetting": 0.3,  # .9 - .6
    }
    curves = fold(ANYTIME)
    same(curves.results(), expected)
    curves.begin()
    same(curves.results(), expected)  # nothing is new before the next evaluation
    curves.add(800, np.array([0.5, 0.4, 0.6]))
    same(
        curves.results(),
        {
            "min_acc": 0.3,  # (.2 + .4) / 2
            "wc_acc": 0.4,  # .6 / 3 + 2 / 3 * .3
            "gap_depth": 1.3 / 3,  # (.7 + (.6 - .5) + (.9 - .4)) / 3
            "gap_recovery": 0.4,
            "forgetting": 0.45,  # ((max(.9, .6) - .5) + (.9 - .4)) / 2
        },
    )
    assert curves.matrix.tolist() == [[0.9, pytest.approx(NAN, nan_ok=True)], [0.6, 0.9]]


def test_windowed_metrics_span_their_evaluations() -> None:
    """Down by .05 twelve times, then up by .02: ten in a row hold nine steps."""
    curves = Curves()
    curves.begin()
    for i in range(12):
        curves.add(i, np.array([1 - 0.05 * i]))
    same(curves.results(), {"windowed_forgetting_10": 0.45, "windowed_forgetting_100": 0.55})
    for i in range(150):
        curves.add(20 + i, np.array([0.45 + 0.003 * i]))
    same(curves.results(), {"windowed_plasticity_10": 0.027, "windowed_plasticity_100": 0.297})
    assert curves.state()["window"].shape == (1, 99)


def test_results_of_a_task_learned_again() -> None:
    steps: list[Step] = [
        ("begin", NAN, None),
        ("add", 1, [0.8], True),
        ("begin", NAN, None),
        ("add", 2, [0.3, 0.7], False),
        ("add", 3, [0.5, 0.9], True),
        ("begin", NAN, 0),
        ("add", 4, [0.7, 0.6], False),
    ]
    curves = fold(steps)
    # Task 0 is current again: only task 1 is past.
    same(curves.results(), {"forgetting": 0.3, "min_acc": 0.6, "wc_acc": 0.65, "bwt": -0.3})
    fold([("add", 5, [0.95, 0.4], True), ("begin", NAN, None)], curves)
    curves.add(6, np.array([0.85, 0.5, 0.5]))
    same(
        curves.results(),
        {
            "forgetting": 0.25,  # ((max(.8, .5, .95) - .85) + (max(.9, .4) - .5)) / 2
            "bwt": -0.175,  # ((.85 - .8) + (.5 - .9)) / 2: a_00 is that of the first end
            "min_acc": 0.625,  # (.85, since its second end, and .4) / 2
            "learning_accuracy": 0.85,  # (.8 + .9) / 2
            "acc": 1.85 / 3,
            "gap_depth": 0.25,  # ((.8 - .3) + (.9 - .4) + (.95 - .85) + (.4 - .5)) / 4
        },
    )


def test_results_of_a_learning_with_a_late_end() -> None:
    """No evaluation said ``ended`` before the next task began: the next one is its row."""
    curves = Curves()
    curves.begin()
    curves.add(10, np.array([0.6, 0.0]))
    curves.begin(0.1)
    curves.add(25, np.array([0.9, 0.5]))
    metrics = curves.results()
    # No evaluation after the end of task 0 yet, and none before task 1 was learned.
    same(metrics, {"forgetting": 0, "bwt": 0, "learning_accuracy": 0.9, "min_acc": NAN})
    same(
        metrics, {"wc_acc": NAN, "fwt": NAN, "gap_depth": NAN, "acc": 0.7, "aia": 0.9, "aaa": 0.65}
    )
    curves.add(40, np.array([0.7, 0.6]))
    same(curves.results(), {"forgetting": 0.2, "min_acc": 0.7, "wc_acc": 0.65, "gap_depth": 0.2})
    # Two that begin between two evaluations: the first of them has no evaluation but its row.
    curves.begin()
    curves.begin()
    curves.add(90, np.array([0.5, 0.5, 0.4, 0.3]), ended=True)
    assert curves.matrix[1:].tolist() == [[0.5, 0.5, 0.4, 0.3]] * 3
    same(curves.results(), {"gap_depth": 0.4, "gap_recovery": 0, "gap_recovery_events": 0})
    same(
        curves.results(), {"learning_accuracy": 2.1 / 4, "aia": (0.9 + 0.5 + 1.4 / 3 + 1.7 / 4) / 4}
    )


def test_results_leave_out_unknown_accuracies() -> None:
    curves = Curves()
    curves.begin()
    curves.add(1, np.array([0.8]), ended=True)
    curves.begin()
    curves.add(2, np.array([NAN, NAN]))
    curves.add(3, np.array([0.6, NAN]))
    curves.add(4, np.array([NAN, 0.4]), ended=True)
    same(
        curves.results(),
        {
            "acc": 0.5,  # what is known last: .6 and .4
            "aaa": 0.6,  # (.8 + .6 + .4) / 3
            "min_acc": 0.6,
            "forgetting": 0.2,
            "windowed_forgetting_10": 0.2,
            "gap_recovery": NAN,  # task 0 was not evaluated at the end
        },
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.add(1, np.array([1.0])), "needs a task that has begun"),
        (lambda c: c.begin(task=0), "0 have begun so far"),
        (lambda c: [c.begin(), c.begin(), c.add(1, np.array([1.0]))], "each of 2 tasks"),
        (lambda c: [c.begin(), c.add(5, np.ones(1)), c.add(4, np.ones(1))], "follow one at 5"),
        (
            lambda c: [c.begin(), c.add(1, np.ones(1), True), c.add(2, np.ones(1), True)],
            "task 0 has already ended",
        ),
        (
            lambda c: [c.begin(), c.begin(), c.add(1, np.ones(2)), c.merge(0)],
            "both must have ended",
        ),
    ],
)
def test_curves_refuse_an_impossible_call(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call(Curves())


def test_knowledge_by_hand() -> None:
    before = np.array([True, True, True, True, False, False])
    now = np.array([True, False, True, True, True, False])
    assert knowledge(before, now) == (0.25, 0.5)
    assert knowledge(now, now) == (0, 0)
    loss, gain = knowledge(np.ones(3, bool), np.zeros(3, bool))
    assert loss == 1
    assert np.isnan(gain)


# The definitions once more, in loops over the whole history.


def mean(values: Any) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else NAN


def extreme(of: Any, values: Any) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(of(known)) if known else NAN


class History:
    """What happened: ``phases`` (task, evaluations before it began, b, its end) and ``seen``."""

    def __init__(self, steps: list[Step]) -> None:
        self.phases: list[dict[str, Any]] = []
        self.seen: list[tuple[int, list[float]]] = []
        for name, *args in steps:
            if name == "begin":
                known = len({p["task"] for p in self.phases})
                task = known if args[1] is None else args[1]
                self.phases.append(
                    {"task": task, "new": task == known, "start": len(self.seen), "b": args[0]}
                )
            else:
                self.seen.append((args[0], list(args[1])))
                if args[2]:
                    self.phases[-1]["end"] = len(self.seen) - 1
        for phase, following in pairwise(self.phases):
            phase.setdefault("end", following["start"])

    def a(self, n: int, j: int) -> float:
        return self.seen[n][1][j]

    def results(self) -> dict[str, float]:
        n_last = len(self.seen) - 1
        phases = [p for p in self.phases if p["start"] <= n_last]
        for phase in phases:
            if phase.get("end", 0) > n_last:
                del phase["end"]
        tasks = range(max(p["task"] for p in phases) + 1)
        current = phases[-1]["task"]
        past = [j for j in tasks if j != current]
        own = {j: [p for p in phases if p["task"] == j] for j in tasks}
        times = {j: range(own[j][0]["start"], n_last + 1) for j in tasks}
        first = {
            j: next(
                (v for p in own[j] if "end" in p and not np.isnan(v := self.a(p["end"], j))), NAN
            )
            for j in tasks
        }
        now = {
            j: next((v for n in times[j][::-1] if not np.isnan(v := self.a(n, j))), NAN)
            for j in tasks
        }

        def begun(n: int) -> list[int]:
            return [j for j in tasks if own[j][0]["start"] <= n]

        def top(j: int) -> float:
            since = phases.index(own[j][0])
            return extreme(max, [self.a(p["end"], j) for p in phases[since:-1]])

        def least(j: int) -> float:
            return extreme(min, [self.a(n, j) for n in range(own[j][-1]["end"] + 1, n_last + 1)])

        def window(j: int, size: int, sign: int) -> float:
            pairs = [(m, n) for m, n in combinations(times[j], 2) if n - m < size]
            return extreme(max, [sign * (self.a(n, j) - self.a(m, j)) for m, n in pairs])

        transfer = []
        for before, phase in pairwise(phases):
            on_time = before["end"] < phase["start"]
            if phase["new"] and on_time and phase["task"] < len(self.seen[before["end"]][1]):
                transfer.append(self.a(before["end"], phase["task"]) - phase["b"])
        depths, recoveries, waits = [], [], []
        for index, phase in enumerate(phases):
            begin = max([phase["start"], *(p["end"] + 1 for p in phases[:index])])
            within = range(begin, phase.get("end", n_last) + 1)
            for i in {p["task"] for p in phases[:index]} - {phase["task"]}:
                known = [n for n in within if not np.isnan(self.a(n, i))]
                if not known:
                    continue
                low = min(self.a(n, i) for n in known)
                earlier = [self.a(n, i) for n in times[i] if n < begin]
                depths.append(next((v for v in earlier[::-1] if not np.isnan(v)), NAN) - low)
                if "end" in phase and not np.isnan(end := self.a(phase["end"], i)):
                    bottom = next(n for n in known if self.a(n, i) == low)
                    back = next(n for n in known if n >= bottom and self.a(n, i) >= end)
                    recoveries.append(end - low)
                    waits.append(self.seen[back][0] - self.seen[bottom][0])
        rows = [
            mean(self.a(p["end"], j) for j in {q["task"] for q in phases[: i + 1]})
            for i, p in enumerate(phases)
            if "end" in p
        ]
        min_acc = mean(least(j) for j in past)
        k = len(tasks)
        return {
            "acc": mean(now.values()),
            "aia": mean(rows),
            "aaa": mean(mean(self.a(n, j) for j in begun(n)) for n in range(n_last + 1)),
            "bwt": mean(now[j] - first[j] for j in past),
            "fwt": mean(transfer),
            "forgetting": mean(top(j) - now[j] for j in past),
            "forgetting_initial": mean(first[j] - now[j] for j in past),
            "learning_accuracy": mean(first.values()),
            "min_acc": min_acc,
            "wc_acc": now[current] / k + (1 - 1 / k) * min_acc if k > 1 else now[current],
            "gap_depth": mean(depths),
            "gap_recovery": mean(recoveries),
            "gap_recovery_events": mean(waits),
            "windowed_forgetting_10": mean(window(j, 10, -1) for j in tasks),
            "windowed_forgetting_100": mean(window(j, 100, -1) for j in tasks),
            "windowed_plasticity_10": mean(window(j, 10, 1) for j in tasks),
            "windowed_plasticity_100": mean(window(j, 100, 1) for j in tasks),
        }


def history(seed: int) -> list[Step]:
    """Learnings with ends on time, late, or after no evaluation, some of them again; accuracies on
    a coarse grid, so that there are ties, and a few that are missing."""
    rng = np.random.default_rng(seed)
    steps: list[Step] = []
    tasks = events = 0
    missing = 0.1 * (seed % 2)
    for _ in range(rng.integers(1, 7)):
        again = tasks and rng.random() < 0.3
        task = int(rng.integers(tasks)) if again else None
        steps.append(("begin", float(rng.random()), task))
        tasks += task is None
        ended = rng.random() < 0.7
        for last in [False] * rng.integers(0, 14) + [True] * bool(ended):
            events += int(rng.integers(1, 9))
            accuracy = rng.integers(0, 21, tasks + rng.integers(0, 3)) / 20
            accuracy[rng.random(len(accuracy)) < missing] = NAN
            steps.append(("add", events, accuracy, last))
        if ended and rng.random() < 0.2:
            steps.append(("add", events, rng.random(tasks), False))
    steps.append(("add", events + 5, rng.random(tasks), False))
    return steps


@pytest.mark.parametrize("block", range(8))
def test_results_match_the_definitions(block: int) -> None:
    """200 histories, each looked at at a random place too."""
    for seed in range(25 * block, 25 * block + 25):
        steps = history(seed)
        places = [i for i, step in enumerate(steps) if step[0] == "add"]
        cut = places[np.random.default_rng(seed).integers(len(places))] + 1
        for part in (steps[:cut], steps):
            same(fold(part).results(), History(part).results(), 1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_curves_loaded_from_state_continue_the_same(seed: int) -> None:
    first = Curves()
    for step in history(seed):
        state = copied(first.state())
        json.dumps([leaf for _, leaf in leaves(state) if not isinstance(leaf, np.ndarray)])
        for _, leaf in leaves(state):
            if isinstance(leaf, np.ndarray):
                leaf.flags.writeable = False
        second = Curves()
        second.load(state)
        fold([step], first)
        fold([step], second)
        assert digest(first.state()) == digest(second.state())
        assert repr(first.results()) == repr(second.results())


def test_curves_memory_is_independent_of_evaluations() -> None:
    rng = np.random.default_rng(0)
    curves, sizes = Curves(), []
    for _ in range(3):
        curves.begin()
        curves.add(0, rng.random(3), ended=True)
    curves.begin()
    for i in range(3000):
        curves.add(i, np.append(np.full(3, i / 3000), rng.random()))
        sizes.append(sum(a.nbytes for _, a in leaves(curves.state()) if isinstance(a, np.ndarray)))
    assert max(sizes) == sizes[200] == sizes[-1] < 20_000


def test_gap_recovery_with_more_records_than_are_kept() -> None:
    """Up a little 1,000 times, then back to half the way: between records that were dropped the
    answer is late, by a few hundredths of the way."""
    curves = Curves()
    curves.begin()
    curves.add(0, np.array([1.0]), ended=True)
    curves.begin()
    for i in range(1000):
        curves.add(10 * i, np.array([i / 1000, 0.5]))
    curves.add(10_000, np.array([0.5, 0.5]), ended=True)
    metrics = curves.results()
    assert metrics.gap_recovery == pytest.approx(0.5)
    assert 5000 <= metrics.gap_recovery_events <= 5300


def four_tasks(running: bool) -> Curves:
    rng = np.random.default_rng(4)
    curves = Curves()
    for task in range(4):
        curves.begin(0.1)
        for i in range(5):
            curves.add(10 * task + i, rng.random(6), ended=i == 4)
    if running:
        curves.begin(0.1)
        curves.add(50, rng.random(6))
        curves.add(51, rng.random(6))
    return curves


def test_merging_every_task_changes_no_mean() -> None:
    for running, steady in (
        # All tasks are merged in pairs: all that is a mean over tasks, or over pairs with them.
        (False, {"acc", "learning_accuracy", "windowed_forgetting_10", "windowed_plasticity_100"}),
        # All past ones are.
        (True, {"bwt", "forgetting", "forgetting_initial", "min_acc", "learning_accuracy"}),
    ):
        curves = four_tasks(running)
        before = asdict(curves.results())
        curves.merge(0)
        curves.merge(1)
        after = curves.results()
        steady |= {"aia", "aaa", "fwt", "gap_depth", "gap_recovery", "gap_recovery_events"}
        same(after, {name: before[name] for name in steady})


def test_merge_by_hand() -> None:
    curves = fold(ANYTIME)
    curves.begin()
    curves.add(800, np.array([0.5, 0.4, 0.6]))
    curves.merge(0, weights=(1, 3))
    same(
        curves.results(),
        {
            "acc": 0.5125,  # ((.5 + 3 * .4) / 4 + .6) / 2
            "learning_accuracy": 0.9,  # (.9 + 3 * .9) / 4
            "bwt": -0.475,  # .425 - .9
            "min_acc": 0.35,  # (.2 + 3 * .4) / 4
            "wc_acc": 0.475,  # .6 / 2 + .35 / 2
            "gap_depth": 1.3 / 3,
        },
    )
    assert curves.matrix.tolist() == [[pytest.approx(0.825)]]  # (.6 + 3 * .9) / 4
    assert curves.begin() == 2
    curves.add(900, np.array([0.3, 0.7, 0.2]))
    same(
        curves.results(),
        {
            "min_acc": 0.3,  # of the merged one; the last has its row only now
            "bwt": -0.3,  # ((.3 - .9) + (.7 - .7)) / 2
            "learning_accuracy": 0.8,  # (.9 + .7) / 2
            "gap_depth": (0.7 + (0.6 - 0.3) + (0.9 - 0.3)) / 3,  # both pairs fell on to .3
        },
    )
    assert curves.matrix.tolist()[1] == [0.3, 0.7, 0.2]


def test_merge_includes_what_awaits_the_next_learning() -> None:
    """The row that is not among those of the maximum yet, the latest evaluations, a task begun."""
    curves = Curves()
    for row in ([0.8, 0.3, 0.2, 0.1], [0.6, 0.7, 0.4, 0.2], [0.95, 0.85, 0.6, 0.3]):
        curves.begin()
        curves.add(0, np.array(row), ended=True)
    curves.merge(0)
    assert curves.begin(0.1) == 2
    curves.add(1, np.array([0.5, 0.5, 0.5]))
    same(
        curves.results(),
        {
            "fwt": 0.2,  # .3 - .1
            "forgetting": 0.25,  # ((max((.8 + .7) / 2, (.95 + .85) / 2) - .5) + (.6 - .5)) / 2
            "bwt": -0.175,  # ((.5 - (.8 + .7) / 2) + (.5 - .6)) / 2
            "windowed_forgetting_10": 0.25,  # ((.95 + .85) / 2 - .5) and .6 - .5
        },
    )
    curves.add(2, np.array([0.5, 0.5, 0.7]), ended=True)
    assert curves.begin(task=2) == 2
    curves.merge(0)
    curves.add(3, np.array([0.4, 0.6]))
    same(curves.results(), {"bwt": -0.275})  # .4 - (.75 + .6) / 2, of the only past task


def test_merge_with_weights_of_one_task_keeps_its_values() -> None:
    one, two = four_tasks(True), four_tasks(True)
    one.merge(1, weights=(0, 1))
    state, whole = one.state(), two.state()
    for name, values in state["tasks"].items():
        assert np.array_equal(values, np.delete(whole["tasks"][name], 1), equal_nan=True)
    assert state["learned"] == [0, 1, 2]
    assert np.array_equal(state["rows"], np.delete(np.delete(whole["rows"], 1, 0), 1, 1))


def avalanche_metrics() -> Any:
    from streams.core.errors import StreamError
    from streams.integrations.avalanche import import_avalanche

    try:
        import_avalanche()
    except StreamError as error:
        pytest.skip(str(error))
    from avalanche.evaluation.metrics import forgetting_bwt

    return forgetting_bwt


def test_initial_forgetting_and_bwt_match_avalanche() -> None:
    avalanche = avalanche_metrics()
    rng = np.random.default_rng(5)
    for tasks in (2, 3, 8):
        matrix = rng.random((tasks, tasks))
        forgetting, bwt = avalanche.Forgetting(), avalanche.BWT()
        for i, row in enumerate(matrix):
            forgetting.reset_last()  # as its plugins do at each evaluation
            bwt.reset_last()
            for j, accuracy in enumerate(row.tolist()):
                for metric in (forgetting, bwt):
                    metric.update(j, accuracy, initial=i == j)
        metrics = continual(matrix)
        theirs = {
            "forgetting_initial": float(np.mean(list(forgetting.result().values()))),
            "bwt": float(np.mean(list(bwt.result().values()))),
        }
        same(metrics, theirs, 1e-9)
        assert metrics.forgetting >= metrics.forgetting_initial
    assert metrics.forgetting > metrics.forgetting_initial + 0.1


def test_continual_matches_curves() -> None:
    curves = Curves()
    rows: list[Array] = [row[: i + 1] for i, row in enumerate(FOUR)]
    for i, row in enumerate(rows):
        curves.begin()
        curves.add(i, row, ended=True)
    metrics, alone = asdict(curves.results()), asdict(continual(FOUR))
    assert {n: v for n, v in alone.items() if not np.isnan(v)}.items() <= metrics.items()
    assert np.array_equal(curves.matrix, FOUR, equal_nan=True)
    assert not np.isnan(metrics["min_acc"])
