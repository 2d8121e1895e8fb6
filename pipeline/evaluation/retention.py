"""Retention of each segment of a stream: its probes are evaluated again as the model moves on.

The accuracies feed the same ``Curves`` as accuracies on tasks (``transfer_and_forgetting.py``), so
a stream without tasks has every metric of one with tasks. For each probe two scores are kept: the
first after its segment ended, and the one at the best evaluation of its segment. Forgetting
compares the same probes then and now; the variance is much smaller than between two samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learners.base import Learner
from pipeline.evaluation.online.sequence_metrics import log_likelihood
from pipeline.evaluation.plasticity import plasticity
from pipeline.evaluation.probes import Segment
from pipeline.evaluation.transfer_and_forgetting import Curves, knowledge
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State

Z95 = 1.959964
"""Half width of a 95% interval, in standard errors."""
_BATCH = 2048  # probes predicted at a time
_LATE, _LATE_EVENTS = 0.1, 100  # an end of a segment evaluated later than this counts as missed
_PLASTICITY_ROWS = 1000  # newest probes, on which plasticity is measured


@dataclass(slots=True)
class _PastSegment:
    """A segment at the last evaluation.

    Attributes:
        begin, end: events predicted before its first event, and before its end.
        ended: whether the next segment has begun.
        score: mean score of its probes.
        missed: whether no evaluation came soon after its end.
    """

    begin: int
    end: int
    ended: bool
    score: float = np.nan
    missed: bool = False


class Retention:
    """Metrics of retention over successive evaluations; memory grows with the probes only.

    The score of a prediction is 1 or 0 (right or wrong); in regression, minus the absolute error;
    of sequences, the log-likelihood of the next event in nats.

    Args:
        task: of the label.
        schema: of the stream, of task sequences; else None.

    Attributes:
        events: events seen at the last evaluation; -1 before the first.
    """

    def __init__(self, task: Task, schema: Schema | None = None) -> None:
        self.task = task
        self.schema = schema
        self.events = -1
        self.curves = Curves()
        self._past: list[_PastSegment] = []
        self._index: Ints = np.empty(0, np.int64)
        # (3, n) scores of each probe: first after its segment, at the segment's best, and last.
        self._known = np.empty((3, 0))

    @np.errstate(over="ignore", invalid="ignore")  # an error of 1e300 has no square
    def evaluate(
        self, learner: Learner, segments: Sequence[Segment], events: int
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Evaluate a model on all probes.

        Args:
            learner: the model; it only predicts.
            segments: the segments with their probes, in stream order.
            events: number of events seen by the model.

        Returns:
            The metrics by name, and one entry per segment: ``begin, end, probes, score, low,
            high``. Both are empty without probes.
        """
        segments = [segment for segment in segments if len(segment)]
        if not segments:
            return {}, []
        rows = Batch.concat([segment.rows for segment in segments if segment.rows is not None])
        index = np.concatenate([segment.index for segment in segments])
        now = self._scores(learner, rows)
        first, best, last = self._known_scores(index)
        metrics: dict[str, float] = {
            "stability/segments": len(segments),
            "stability/probes": len(rows),
            **self._knowledge(last, now),
        }
        new_row = self._update_curves(segments, index, now, events)
        groups = [np.flatnonzero((index >= s.begin) & (index < s.end)) for s in self._past]
        self._set_first_scores(first, best, now, groups)
        if new_row and not segments[-1].ended:  # the new row precedes this evaluation
            _improve(best, now, groups[:-1])
        metrics |= self._curve_metrics() | self._intervals(now, first, best, groups)
        metrics["stability/missed"] = sum(segment.missed for segment in self._past)
        metrics |= plasticity(
            learner, _without_labels(rows[max(0, len(rows) - _PLASTICITY_ROWS) :])
        )
        if new_row and segments[-1].ended:  # the new row is this evaluation
            _improve(best, now, groups[:-1])
        self._index, self._known, self.events = index, np.stack([first, best, now]), events
        return metrics, self._entries(now, groups)

    def _knowledge(self, last: Array, now: Array) -> dict[str, float]:
        """Return knowledge loss and gain since the last evaluation, where both are defined."""
        known = ~np.isnan(last)
        if self.task != "classification" or not known.any():
            return {}
        loss, gain = knowledge(last[known] > 0.5, now[known] > 0.5)
        return _finite({"stability/knowledge_loss": loss, "plasticity/knowledge_gain": gain})

    def _set_first_scores(
        self, first: Array, best: Array, now: Array, groups: Sequence[Ints]
    ) -> None:
        """Set in place the first and best scores of probes without one, in ended segments."""
        for segment, group in zip(self._past, groups, strict=True):
            if segment.ended and not segment.missed:
                fresh = group[np.isnan(first[group])]
                first[fresh] = best[fresh] = now[fresh]

    def _entries(self, now: Array, groups: Sequence[Ints]) -> list[dict[str, Any]]:
        """Return the entry of each segment in ``evaluations.jsonl``."""
        return [
            {
                "begin": segment.begin,
                "end": segment.end,
                "probes": len(group),
                **{
                    name: value if math.isfinite(value) else None
                    for name, value in self._score(now[group]).items()
                },
            }
            for segment, group in zip(self._past, groups, strict=True)
        ]

    def _scores(self, learner: Learner, rows: Batch) -> Array:
        """Return the score of each probe, (n,) float64."""
        y = rows.y
        assert y is not None
        scores: Array
        parts = [learner.predict(part) for part in _without_labels(rows).micro_batches(_BATCH)]
        if self.schema is not None:
            labelled = zip(parts, rows.micro_batches(_BATCH), strict=True)
            return np.concatenate([log_likelihood(p, part, self.schema) for p, part in labelled])
        value = np.concatenate([part.value for part in parts])
        if self.task == "classification":
            scores = (value == y).astype(np.float64)
        else:  # a missing prediction counts as 0
            scores = -np.abs(np.where(np.isnan(value), 0.0, value) - y)
        return scores

    def _known_scores(self, index: Ints) -> tuple[Array, Array, Array]:
        """Return the first, best and last score of each probe, each (n,), NaN where unknown."""
        known = np.full((3, len(index)), np.nan)
        if len(self._index):
            at = np.minimum(np.searchsorted(self._index, index), len(self._index) - 1)
            same = self._index[at] == index
            known[:, same] = self._known[:, at[same]]
        return known[0], known[1], known[2]

    def _update_curves(
        self, segments: Sequence[Segment], index: Ints, now: Array, events: int
    ) -> bool:
        """Add to the curves which segments have begun, ended or merged, and the accuracy on each.

        Returns whether the accuracy matrix has a new row.
        """
        begins = np.array([segment.begin for segment in segments])
        row = fed = False  # fed: this evaluation is in the curves, with all segments
        for past in self._past:
            segment = segments[int(np.searchsorted(begins, past.begin, side="right")) - 1]
            if not past.ended and segment.ended:
                # If it has been merged since, it is the later half.
                past.end, past.ended = segment.end, True
                past.missed = _too_late(past, events)
                self.curves.add(events, _accuracy(self._past, index, now, row=True), ended=True)
                row = fed = True
        for i, segment in enumerate(segments):
            inside = [s for s in self._past if segment.begin <= s.begin < segment.end]
            for _ in inside[1:]:
                self.curves.merge(i)
            if inside:
                past = inside[0]
                past.begin, past.end = segment.begin, segment.end
                past.missed = any(part.missed for part in inside)
                self._past = [s for s in self._past if s not in inside[1:]]
                continue
            past = _PastSegment(segment.begin, segment.end, segment.ended)
            self._past.insert(i, past)
            self.curves.begin()
            if segment.ended:
                past.missed = _too_late(past, events)
                known = _accuracy(self._past[: i + 1], index, now, row=True)
                self.curves.add(events, known, ended=True)
            fed = segment.ended
            row = row or fed
        if not fed:
            self.curves.add(events, _accuracy(self._past, index, now))
        return row

    def _curve_metrics(self) -> dict[str, float]:
        """Return the metrics of the curves that ``_intervals`` does not compute on the probes."""
        metrics = self.curves.results().named()
        for name in ("forgetting", "forgetting_initial", "bwt"):
            metrics.pop(f"stability/{name}", None)
        if self.task != "classification":
            # Differences of mean absolute errors, or of nats, read the same; levels do not.
            metrics = {name: value for name, value in metrics.items() if "windowed" in name}
        return metrics

    def _score(self, scores: Array) -> dict[str, float]:
        """Return the mean score of a segment with a 95% interval (Wilson's for accuracies)."""
        n, mean = len(scores), float(scores.mean())
        if self.task != "classification":
            half = Z95 * float(scores.std()) / n**0.5
            return {"score": mean, "low": mean - half, "high": mean + half}
        low, high = wilson(mean, n)
        return {"score": mean, "low": low, "high": high}

    def _intervals(
        self, now: Array, first: Array, best: Array, groups: Sequence[Ints]
    ) -> dict[str, float]:
        """Return the metrics that are means over segments, with 95% intervals.

        Losses compare the same probes then and now. A probe whose label came after the end of its
        segment counts from its first score.
        """
        metrics: dict[str, float] = {}
        classes = self.task == "classification"
        if classes:
            metrics |= _around("stability/acc", [_binomial(now[group]) for group in groups], 0.0)
        else:
            name = "mae" if self.task == "regression" else "nll"
            metrics[f"stability/{name}"] = -float(np.mean([now[group].mean() for group in groups]))
        least = -1.0 if classes else -np.inf
        for name, then in (("forgetting", best), ("forgetting_initial", first)):
            lost = [then[group] - now[group] for group in groups[:-1]]
            past = [known for part in lost if len(known := part[~np.isnan(part)])]
            if past:
                metrics[f"stability/{name}"] = float(np.mean([part.mean() for part in past]))
                pairs = [self._paired(part) for part in past]
                metrics |= _around(f"stability/{name}", pairs, least)
        if "stability/forgetting" in metrics:
            metrics["stability/bwt"] = -metrics["stability/forgetting_initial"]
            # The best of several accuracies is biased upwards by chance, so forgetting since the
            # best is too high at times: its lower end is at most that since the first.
            low = "stability/forgetting_low"
            metrics[low] = min(metrics[low], metrics["stability/forgetting_initial_low"])
        return metrics

    def _paired(self, lost: Array) -> tuple[float, float]:
        """Return the mean loss on the same probes, and the variance of that mean.

        For the variance half a probe is added to each of four cells (Agresti and Min 2005), so that
        the interval is valid with few probes, or when none has changed. The mean is not adjusted:
        its bias would add up over segments.
        """
        n = len(lost)
        if self.task == "regression":
            return float(lost.mean()), float(lost.var(ddof=min(1, n - 1)) / n)
        worse, better = (lost > 0).sum() + 0.5, (lost < 0).sum() + 0.5
        changed, shift = (worse + better) / (n + 2), (worse - better) / (n + 2)
        return float(lost.mean()), float((changed - shift**2) / n)

    def state(self) -> State:
        return {
            "events": self.events,
            "curves": self.curves.state(),
            "spans": np.array([[s.begin, s.end, s.ended, s.missed] for s in self._past], np.int64),
            "index": self._index,
            "known": self._known,
        }

    def load(self, state: State) -> None:
        self.events = state["events"]
        self.curves.load(state["curves"])
        spans = state["spans"].reshape(-1, 4).tolist()
        self._past = [
            _PastSegment(begin, end, bool(ended), missed=bool(missed))
            for begin, end, ended, missed in spans
        ]
        self._index, self._known = state["index"], state["known"]


def _accuracy(
    segments: Sequence[_PastSegment], index: Ints, now: Array, row: bool = False
) -> Array:
    """Return the mean score of each segment, (k,); the previous one where it has no probes left.

    In a row of the accuracy matrix the last is NaN if the end of its segment was missed.
    """
    for segment in segments:
        start, stop = np.searchsorted(index, [segment.begin, segment.end])
        if start < stop:
            segment.score = float(now[start:stop].mean())
    known = np.array([segment.score for segment in segments])
    if row and segments[-1].missed:
        known[-1] = np.nan
    return known


def _without_labels(rows: Batch) -> Batch:
    """Return what a learner may see of probes."""
    return replace(rows, y=None, wait=None, segment=None, probe=None)


def _too_late(segment: _PastSegment, events: int) -> bool:
    """Return whether a segment ended too long ago to measure its score at its end: more than a
    tenth of its length."""
    late = max(_LATE * (segment.end - segment.begin), _LATE_EVENTS)
    return events - segment.end > late


def _improve(best: Array, now: Array, groups: Sequence[Ints]) -> None:
    """Set in place the best scores of segments whose mean score is higher now than ever."""
    for group in groups:
        if now[group].mean() > best[group].mean():
            best[group] = now[group]


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share observed in n trials (Wilson 1927)."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * (share * (1 - share) / n + Z95**2 / (4 * n * n)) ** 0.5 / (1 + Z95**2 / n)
    return centre - half, centre + half


def _binomial(hits: Array) -> tuple[float, float]:
    """Return the accuracy and its variance, with two right and two wrong answers added for the
    variance (Agresti and Coull 1998)."""
    n = len(hits)
    share = (float(hits.sum()) + 2) / (n + 4)
    return float(hits.mean()), share * (1 - share) / n


def _around(name: str, parts: Sequence[tuple[float, float]], least: float) -> dict[str, float]:
    """Return the ends of a 95% interval around the mean over segments.

    Args:
        name: prefix of the names of the ends.
        parts: mean and variance of each segment.
        least: lower bound of the metric, with an upper bound of 1; -inf: no bounds.
    """
    mean = float(np.mean([m for m, _ in parts]))
    half = Z95 * float(np.sum([v for _, v in parts])) ** 0.5 / len(parts)
    most = 1.0 if np.isfinite(least) else np.inf
    return {f"{name}_low": max(least, mean - half), f"{name}_high": min(most, mean + half)}


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
