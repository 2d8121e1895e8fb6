"""Continual metrics: how well what was learned earlier is known now, from the accuracy on each task
at each evaluation.

A(E_j) is the accuracy on the evaluation set of task j, a_lj that after the l-th learning has ended,
T the number of tasks begun, n the number of an evaluation. The task begun last is the current one;
all others are past.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.stability_gap import StabilityGap
from streams.core.batch import Array, Floats
from streams.core.state_dict import State

_PLASTICITY = ("fwt", "learning_accuracy", "windowed_plasticity_10", "windowed_plasticity_100")
_ANYTIME = (
    *("aaa", "min_acc", "wc_acc", "gap_depth", "gap_recovery", "gap_recovery_events"),
    *("windowed_forgetting_10", "windowed_forgetting_100"),
    *("windowed_plasticity_10", "windowed_plasticity_100"),
)

_WINDOWS = (10, 100)
# By task: a_jj; the maximum over rows; the minimum since the end; the latest accuracy; and for
# each window the greatest fall and rise.
_BY_TASK = (
    *("first", "best", "worst", "last"),
    *(f"{name}_{size}" for size in _WINDOWS for name in ("forgot", "gained")),
)


@dataclass(frozen=True, slots=True)
class Continual:
    """The metrics as of the last evaluation; NaN where one is not defined yet. A mean leaves out
    the tasks for which what it is of is not known."""

    acc: float
    """mean_j A(E_j) over the tasks begun; at the end 1/T sum_j a_Tj (Lopez-Paz and Ranzato 2017)"""

    aia: float
    """mean over learnings i of mean_j<=i a_ij: average incremental accuracy (Rebuffi et al.
    2017)"""

    aaa: float
    """mean over evaluations of the mean accuracy on the tasks begun by then: average anytime
    accuracy (Caccia et al. 2022)"""

    bwt: float
    """mean over past j of A(E_j) - a_jj: backward transfer (Lopez-Paz and Ranzato 2017)"""

    fwt: float
    """mean over j >= 2 of a_(j-1)j - b_j, b_j of the untrained model: forward transfer (Lopez-Paz
    and Ranzato 2017)"""

    forgetting: float
    """mean over past j of max_l a_lj - A(E_j), l from the end of j to the last before the current
    learning: below 0 where a task got better than it ever was (Chaudhry et al. 2018)"""

    forgetting_initial: float
    """mean over past j of a_jj - A(E_j): -bwt; what Avalanche calls forgetting"""

    learning_accuracy: float
    """mean_j a_jj over the tasks ended: what was learned of each when it was its turn (Riemer et
    al. 2019)"""

    min_acc: float
    """mean over past j of min_n A(E_j) over the evaluations after the end of j (De Lange et al.
    2023)"""

    wc_acc: float
    """A(E_k)/T + (1 - 1/T) min_acc, k the current task: worst-case accuracy (De Lange et al.
    2023)"""

    gap_depth: float
    """mean over pairs (j, k) of A(E_j) just before k is learned - min A(E_j) while it is, also over
    the pairs of the current k, as of now (after De Lange et al. 2023)"""

    gap_recovery: float
    """mean over pairs (j, k), k ended, of A(E_j) at the end of k - the same minimum"""

    gap_recovery_events: float
    """mean over the same of the events from that minimum until A(E_j) was first what it is at the
    end of k; 0 where that is the minimum"""

    windowed_forgetting_10: float
    """mean_j of the greatest A_m(E_j) - A_n(E_j), m < n, both among 10 evaluations in a row (De
    Lange et al. 2023)"""

    windowed_forgetting_100: float
    """the same among 100"""

    windowed_plasticity_10: float
    """mean_j of the greatest A_n(E_j) - A_m(E_j), m < n, both among 10 evaluations in a row (De
    Lange et al. 2023)"""

    windowed_plasticity_100: float
    """the same among 100"""

    def named(self) -> dict[str, float]:
        """Those that are defined, by the name that they are logged by."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            f"{'plasticity' if name in _PLASTICITY else 'stability'}/{name}": value
            for name, value in found.items()
            if math.isfinite(value)
        }


class Curves:
    """Accuracy on each task at each evaluation, folded in as they come. Memory grows with tasks and
    with learnings (a row of the matrix each), not with evaluations.

    A learning begins by ``begin`` and ends at an evaluation, its row of the matrix: the one that
    says ``ended``, or, where another has begun before one did, the next to come. Such a late row
    counts for the learning that it ends and not as an evaluation during the next one: no minimum of
    a stability gap, and no forward transfer to a task that is being learned already.

    A task may be learned again. Then it is the current one, and past again after that. Its a_jj
    stays that of the first end; the maximum is over all rows since the first end, but that of the
    current learning; the minimum starts anew at each end.

    Evaluations after the end of a learning and before the next begins belong to none: they count
    for all but the stability gap.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, Floats] = {name: np.empty(0) for name in _BY_TASK}  # (T,) each
        self._ended: NDArray[np.bool_] = np.empty(0, bool)  # (T,), and not begun again since
        self._window: Floats = np.empty((0, 0))  # (T, <= 99) accuracy at the latest evaluations
        self._row: Floats = np.empty(0)  # the last row of the matrix
        self._rows: Floats = np.empty((0, 0))
        self._learned: list[int] = []  # the task of each row
        self._current = -1
        self._running = False  # a learning has begun, and its row has not come
        self._events = 0
        self._sums = {name: np.zeros(2) for name in ("aia", "aaa", "fwt")}  # sum, how many
        self._gaps = StabilityGap()
        # Begun since the last evaluation, and taken up at the next: until then all is as it was.
        self._begun: list[tuple[int, float]] = []

    def begin(self, untrained: float = math.nan, task: int | None = None) -> int:
        """A task begins to be learned.

        Args:
            untrained: accuracy on it of the model that has learned nothing.
            task: the index of one that is learned again; None: a new one.

        Returns its index: new tasks are numbered as they come.
        """
        known = self._count()
        if task is not None and not 0 <= task < known:
            raise ValueError(f"task {task} cannot be learned again: {known} have begun so far")
        self._begun.append((known if task is None else task, untrained))
        return self._begun[-1][0]

    def _count(self) -> int:
        return max([len(self._ended), *(task + 1 for task, _ in self._begun)])

    def add(self, events: int, accuracy: Array, ended: bool = False) -> None:
        """One evaluation.

        Args:
            events: how many were seen before it.
            accuracy: (k,) by task, NaN where there is none; columns beyond the tasks begun are of
                tasks to come, and count for forward transfer only.
            ended: the learning of the task begun last ended here.
        """
        accuracy = np.array(accuracy, np.float64)
        tasks = self._count()
        if not tasks:
            raise ValueError("an evaluation comes after the first task has begun")
        if accuracy.ndim != 1 or len(accuracy) < tasks:
            raise ValueError(f"accuracy {accuracy.shape} is not one for each of {tasks} tasks")
        if events < self._events:
            raise ValueError(
                f"an evaluation after {events} events follows one after {self._events}"
            )
        if ended and not (self._running or self._begun):
            raise ValueError(f"the learning of task {self._current} has ended already: begin one")
        self._events = int(events)
        past = self._tasks["worst"]
        self._tasks["worst"] = np.where(self._ended, np.fmin(past, accuracy[: len(past)]), past)
        late = False
        for task, untrained in self._begun:
            if self._running:
                self._end(accuracy, within=not late)
                late = True
            self._start(task, untrained, late)
        self._begun = []
        now = accuracy[:tasks]
        _count_in(self._sums["aaa"], _mean(now))
        self._slide(now)
        if ended:
            self._end(accuracy, within=not late)
        elif self._running and not late:
            self._gaps.add(events, accuracy)
        self._tasks["last"] = _latest(self._tasks["last"], now)

    def _start(self, task: int, untrained: float, late: bool) -> None:
        """A learning of ``task`` starts, as ``begin`` said; ``late`` where it had by the row of
        the one before."""
        own = self._tasks
        if len(self._learned):
            own["best"] = np.fmax(own["best"], self._row[: len(self._ended)])
        if task == len(self._ended):
            if len(self._row) > task and not late:
                _count_in(self._sums["fwt"], self._row[task] - untrained)
            self._tasks = {name: np.append(values, np.nan) for name, values in own.items()}
            self._ended = np.append(self._ended, False)
            self._window = np.pad(self._window, ((0, 1), (0, 0)), constant_values=np.nan)
        self._ended[task] = False
        self._current, self._running = task, True
        old = np.flatnonzero(self._ended)
        self._gaps.open(old, self._tasks["last"][old])

    def _end(self, accuracy: Floats, within: bool) -> None:
        """The learning ends at this evaluation, made ``within`` it or, late, at the end of the one
        before."""
        tasks, current, own = len(self._ended), self._current, self._tasks
        if within:
            self._gaps.add(self._events, accuracy)
        self._gaps.close(accuracy)
        self._row = accuracy
        width = max(self._rows.shape[1], len(accuracy))
        self._rows = np.stack([_padded(row, width) for row in (*self._rows, accuracy)])
        self._learned.append(current)
        _count_in(self._sums["aia"], _mean(accuracy[:tasks]))
        own["last"] = _latest(own["last"], accuracy[:tasks])
        own["worst"][current] = np.nan
        if np.isnan(own["first"][current]):
            own["first"][current] = accuracy[current]
        self._ended[current], self._running = True, False

    def _slide(self, now: Floats) -> None:
        """Compares an evaluation with those before it in each window, and takes it in."""
        for size in _WINDOWS:
            before = self._window[:, -(size - 1) :]
            for name, value in (
                (f"forgot_{size}", np.fmax.reduce(before, 1, initial=np.nan) - now),
                (f"gained_{size}", now - np.fmin.reduce(before, 1, initial=np.nan)),
            ):
                self._tasks[name] = np.fmax(self._tasks[name], value)
        self._window = np.column_stack([self._window, now])[:, -(max(_WINDOWS) - 1) :]

    def merge(self, first: int, weights: tuple[float, float] = (1, 1)) -> None:
        """Tasks ``first`` and ``first + 1``, both ended, become one: later ones move up by one, and
        what is kept of the two becomes their mean by ``weights``. Of their rows of the matrix those
        of ``first`` go. Where every task is merged with one like it, no mean over tasks jumps."""
        if not (0 <= first < len(self._ended) - 1 and self._ended[first : first + 2].all()):
            raise ValueError(
                f"tasks {first} and {first + 1} cannot be merged: both must have ended"
            )
        if len(self._row):  # it may be the best of one of them, and count from the next task on
            both = slice(first, first + 2)
            self._tasks["best"][both] = np.fmax(self._tasks["best"][both], self._row[both])
        self._tasks = {n: _merged(values, first, weights) for n, values in self._tasks.items()}
        self._ended = np.delete(self._ended, first)
        self._window = _merged(self._window, first, weights)
        self._row = _merged(self._row, first, weights)
        kept = [task != first for task in self._learned]
        self._rows = _merged(self._rows[kept].T, first, weights).T
        self._learned = [_moved(task, first) for task in self._learned if task != first]
        self._current = _moved(self._current, first)
        self._begun = [(_moved(task, first), untrained) for task, untrained in self._begun]
        self._gaps.merge(first)

    @property
    def matrix(self) -> Floats:
        """(rows, k): accuracy on each task at the end of each learning, NaN where unknown."""
        return self._rows

    def results(self) -> Continual:
        """The metrics as they stand after the last evaluation."""
        own, tasks, current = self._tasks, len(self._ended), self._current
        if not tasks:
            return Continual(**{field.name: math.nan for field in fields(Continual)})
        past = self._ended & (np.arange(tasks) != current)
        last = own["last"]
        backward = _mean((last - own["first"])[past])
        min_acc = _mean(own["worst"][past])
        depth, recovery, events = self._gaps.results()
        return Continual(
            acc=_mean(last),
            aia=_quotient(self._sums["aia"]),
            aaa=_quotient(self._sums["aaa"]),
            bwt=backward,
            fwt=_quotient(self._sums["fwt"]),
            forgetting=_mean((own["best"] - last)[past]),
            forgetting_initial=0.0 - backward,  # never -0.0
            learning_accuracy=_mean(own["first"]),
            min_acc=min_acc,
            wc_acc=float(last[current] / tasks + (1 - 1 / tasks) * min_acc)
            if tasks > 1
            else float(last[current]),
            gap_depth=depth,
            gap_recovery=recovery,
            gap_recovery_events=events,
            windowed_forgetting_10=_mean(own["forgot_10"]),
            windowed_forgetting_100=_mean(own["forgot_100"]),
            windowed_plasticity_10=_mean(own["gained_10"]),
            windowed_plasticity_100=_mean(own["gained_100"]),
        )

    def state(self) -> State:
        return {
            "tasks": dict(self._tasks),
            "ended": self._ended,
            "window": self._window,
            "row": self._row,
            "rows": self._rows,
            "learned": list(self._learned),
            "current": self._current,
            "running": self._running,
            "events": self._events,
            "sums": dict(self._sums),
            "gaps": self._gaps.state(),
            "begun": [task for task, _ in self._begun],
            "untrained": np.array([untrained for _, untrained in self._begun]),
        }

    def load(self, state: State) -> None:
        self._tasks = {name: np.array(values) for name, values in state["tasks"].items()}
        self._ended, self._window = np.array(state["ended"]), np.array(state["window"])
        self._row, self._rows = np.array(state["row"]), np.array(state["rows"])
        self._learned = list(state["learned"])
        self._current, self._running = state["current"], state["running"]
        self._events = state["events"]
        self._sums = {name: np.array(sums) for name, sums in state["sums"].items()}
        self._gaps.load(state["gaps"])
        self._begun = list(zip(state["begun"], state["untrained"].tolist(), strict=True))


def continual(matrix: Array, untrained: Array | None = None) -> Continual:
    """The metrics of an accuracy matrix alone: row i (T, k >= T) after task i was learned; NaN for
    all that looks between two ends. ``untrained`` (T,) is the accuracy before anything was."""
    curves = Curves()
    for i, row in enumerate(matrix):
        curves.begin(math.nan if untrained is None else float(untrained[i]))
        curves.add(i, row, ended=True)
    return replace(curves.results(), **dict.fromkeys(_ANYTIME, math.nan))


def knowledge(before: NDArray[np.bool_], now: NDArray[np.bool_]) -> tuple[float, float]:
    """Knowledge loss and gain ratio between two evaluations on the same n events, (n,) each: of
    those right before, the share that is wrong now; of those wrong before, the share that is right
    now (Koh et al. 2023, "Online boundary-free continual learning"). They show the churn that an
    accuracy which stays the same hides. NaN where there are none."""
    return _share(~now[before]), _share(now[~before])


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan


def _mean(values: Floats) -> float:
    """Of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _count_in(sums: Floats, value: float) -> None:
    """One more in a sum and how many, in place, if it is known."""
    if not math.isnan(value):
        sums += [value, 1]


def _quotient(sums: Floats) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _latest(last: Floats, now: Floats) -> Floats:
    """(T,) the accuracy now, and where there is none, that of before."""
    return np.where(np.isnan(now[: len(last)]), last, now[: len(last)])


def _padded(row: Floats, width: int) -> Floats:
    return np.pad(row, (0, width - len(row)), constant_values=np.nan)


def _merged(values: Floats, first: int, weights: tuple[float, float]) -> Floats:
    """(T, ...) with rows ``first`` and ``first + 1`` as their mean; the one known where the other
    is not."""
    one, two = values[first], values[first + 1]
    mean = (weights[0] * one + weights[1] * two) / sum(weights)
    both = np.delete(values, first, axis=0)
    both[first] = np.where(np.isnan(one), two, np.where(np.isnan(two), one, mean))
    return both


def _moved(task: int, first: int) -> int:
    return task - 1 if task > first else task
