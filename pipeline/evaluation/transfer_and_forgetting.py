"""Continual metrics: transfer and forgetting, from the accuracy on each task at each evaluation.

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
# By task: a_jj; the maximum over rows; the minimum since its end; the latest accuracy; and for
# each window the largest fall and rise.
_BY_TASK = (
    *("first", "best", "worst", "last"),
    *(f"{name}_{size}" for size in _WINDOWS for name in ("forgot", "gained")),
)


@dataclass(frozen=True, slots=True)
class ContinualMetrics:
    """The metrics at the last evaluation; NaN where not defined yet. A mean leaves out the tasks
    whose value is unknown."""

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
        """Return the defined metrics by the name under which they are logged."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            f"{'plasticity' if name in _PLASTICITY else 'stability'}/{name}": value
            for name, value in values.items()
            if math.isfinite(value)
        }


class Curves:
    """Accuracy on each task, one evaluation after the other. Memory grows with the tasks and the
    learnings (one row of the matrix each), not with the evaluations.

    A learning begins with ``begin`` and ends at an evaluation, its row of the matrix: the one with
    ``ended``, or the next one if another learning begins first. Such a late row counts for the
    learning that it ends, but not as an evaluation during the next one: it is no minimum of a
    stability gap, and no forward transfer to a task that is already being learned.

    A task may be learned again: it is the current one, and then past again. Its a_jj remains that
    of its first end. Its maximum is over all rows since the first end except that of the current
    learning; its minimum starts again at each end.

    Evaluations between two learnings belong to neither: they count for all metrics except the
    stability gap.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, Floats] = {name: np.empty(0) for name in _BY_TASK}  # (T,) each
        self._ended: NDArray[np.bool_] = np.empty(0, bool)  # (T,), and not begun again since
        self._window: Floats = np.empty((0, 0))  # (T, <= 99) accuracy at the latest evaluations
        self._row: Floats = np.empty(0)  # the last row of the matrix
        self._rows: Floats = np.empty((0, 0))
        self._learned: list[int] = []  # the task of each row
        self._current = -1
        self._running = False  # a learning has begun, and its row is missing
        self._events = 0
        self._sums = {name: np.zeros(2) for name in ("aia", "aaa", "fwt")}  # sum, how many
        self._gaps = StabilityGap()
        # Learnings begun since the last evaluation; they take effect at the next one.
        self._begun: list[tuple[int, float]] = []

    def begin(self, untrained: float = math.nan, task: int | None = None) -> int:
        """Begin to learn a task.

        Args:
            untrained: accuracy of the untrained model on it.
            task: index of a task that is learned again; None: a new task.

        Returns its index; new tasks are numbered in order.
        """
        known = self._count()
        if task is not None and not 0 <= task < known:
            raise ValueError(f"task {task} cannot be learned again: {known} have begun so far")
        self._begun.append((known if task is None else task, untrained))
        return self._begun[-1][0]

    def _count(self) -> int:
        """Return the number of tasks begun."""
        return max([len(self._ended), *(task + 1 for task, _ in self._begun)])

    def add(self, events: int, accuracy: Array, ended: bool = False) -> None:
        """Add one evaluation.

        Args:
            events: number of events seen before it.
            accuracy: (k,) by task, NaN where unknown; columns beyond the tasks begun are of future
                tasks, and count for forward transfer only.
            ended: whether the learning of the current task ends here.

        Raises ``ValueError`` where this does not follow from the evaluations before.
        """
        accuracy = np.array(accuracy, np.float64)
        tasks = self._count()
        if not tasks:
            raise ValueError("an evaluation needs a task that has begun")
        if accuracy.ndim != 1 or len(accuracy) < tasks:
            raise ValueError(
                f"accuracy {accuracy.shape} does not have one value for each of {tasks} tasks"
            )
        if events < self._events:
            raise ValueError(
                f"an evaluation at {events} events cannot follow one at {self._events}"
            )
        if ended and not (self._running or self._begun):
            raise ValueError(
                f"the learning of task {self._current} has already ended: begin another"
            )
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
        """Start the learning of ``task``; ``late``: it began before the row of the previous one."""
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
        """End the learning at this evaluation, which is ``within`` it or late."""
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
        """Compare an evaluation with the previous ones in each window, and add it to them."""
        for size in _WINDOWS:
            before = self._window[:, -(size - 1) :]
            for name, value in (
                (f"forgot_{size}", np.fmax.reduce(before, 1, initial=np.nan) - now),
                (f"gained_{size}", now - np.fmin.reduce(before, 1, initial=np.nan)),
            ):
                self._tasks[name] = np.fmax(self._tasks[name], value)
        self._window = np.column_stack([self._window, now])[:, -(max(_WINDOWS) - 1) :]

    def merge(self, first: int, weights: tuple[float, float] = (1, 1)) -> None:
        """Merge tasks ``first`` and ``first + 1``, both ended; later tasks move up by one.

        The values of the two become their weighted mean, and the rows of ``first`` leave the
        matrix. If every task is merged with one of the same values, no mean over tasks changes.

        Raises ``ValueError`` where one of them has not ended.
        """
        if not (0 <= first < len(self._ended) - 1 and self._ended[first : first + 2].all()):
            raise ValueError(
                f"tasks {first} and {first + 1} cannot be merged: both must have ended"
            )
        if len(self._row):  # it may be their best, which counts from the next task on
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
        """Return the accuracy on each task at the end of each learning, (rows, k), NaN: unknown."""
        return self._rows

    def results(self) -> ContinualMetrics:
        """Return the metrics after the last evaluation."""
        own, tasks, current = self._tasks, len(self._ended), self._current
        if not tasks:
            return ContinualMetrics(**{field.name: math.nan for field in fields(ContinualMetrics)})
        past = self._ended & (np.arange(tasks) != current)
        last = own["last"]
        backward = _mean((last - own["first"])[past])
        min_acc = _mean(own["worst"][past])
        depth, recovery, events = self._gaps.results()
        return ContinualMetrics(
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


def continual(matrix: Array, untrained: Array | None = None) -> ContinualMetrics:
    """Return the metrics of an accuracy matrix; those between two rows are NaN.

    Args:
        matrix: (T, k >= T), row i after task i was learned.
        untrained: (T,) accuracy of the untrained model on each task; None: unknown.
    """
    curves = Curves()
    for i, row in enumerate(matrix):
        curves.begin(math.nan if untrained is None else float(untrained[i]))
        curves.add(i, row, ended=True)
    return replace(curves.results(), **dict.fromkeys(_ANYTIME, math.nan))


def knowledge(before: NDArray[np.bool_], now: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the ratios of knowledge loss and gain between two evaluations on the same events.

    Loss is the share wrong now of the events right before, gain the share right now of those wrong
    before (Koh et al. 2023, "Online boundary-free continual learning"). They show changes that a
    constant accuracy hides. NaN where there are no such events.

    Args:
        before: (n,) whether each event was right at the first evaluation.
        now: (n,) whether it is at the second.
    """
    return _share(~now[before]), _share(now[~before])


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan


def _mean(values: Floats) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _count_in(sums: Floats, value: float) -> None:
    """Add a value to a sum and its count in place, unless it is NaN."""
    if not math.isnan(value):
        sums += [value, 1]


def _quotient(sums: Floats) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _latest(last: Floats, now: Floats) -> Floats:
    """Return (T,) the accuracy now, or the previous one where it is NaN."""
    return np.where(np.isnan(now[: len(last)]), last, now[: len(last)])


def _padded(row: Floats, width: int) -> Floats:
    return np.pad(row, (0, width - len(row)), constant_values=np.nan)


def _merged(values: Floats, first: int, weights: tuple[float, float]) -> Floats:
    """Return (T - 1, ...) with rows ``first`` and ``first + 1`` replaced by their weighted mean, or
    by the known one where the other is NaN."""
    one, two = values[first], values[first + 1]
    mean = (weights[0] * one + weights[1] * two) / sum(weights)
    both = np.delete(values, first, axis=0)
    both[first] = np.where(np.isnan(one), two, np.where(np.isnan(two), one, mean))
    return both


def _moved(task: int, first: int) -> int:
    return task - 1 if task > first else task
