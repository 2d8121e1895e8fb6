"""What a model still knows of each segment of a stream: its probes, asked about again and again.

The accuracies feed the same ``Curves`` as accuracies on tasks do (``continual.py``), so a stream
without tasks has all the metrics of one with tasks. Each probe's first answer after its segment
had ended is remembered, and that of the time at which its segment was known best: what is forgotten
is measured on the same probes then and now, which is far closer than two samples would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learners.base import Learner
from pipeline.evaluation.plasticity import plasticity
from pipeline.evaluation.probes import Segment
from pipeline.evaluation.transfer_and_forgetting import Curves, knowledge
from streams.core.batch import Array, Batch, Ints
from streams.core.schema import Task
from streams.core.state_dict import State

Z95 = 1.959964
"""Of a 95% interval."""
_AT_ONCE = 2048  # probes that are predicted at a time
_LATE, _LATE_EVENTS = 0.1, 100  # an end of a segment that is seen so late has been missed
_LOOKED_INTO = 1000  # probes that plasticity is measured on, the newest


@dataclass(slots=True)
class _Span:
    """A segment as it was last seen."""

    begin: int
    end: int
    ended: bool
    score: float = np.nan  # mean of its probes
    missed: bool = False  # its end: nobody knows how well it was known then


class Retention:
    """Folds in one evaluation after the other; memory is that of the probes.

    Scores are 1 and 0 for right and wrong, and for regression minus the absolute error.

    Attributes:
        events: of the last evaluation; -1 before the first.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.events = -1
        self.curves = Curves()
        self._spans: list[_Span] = []
        self._index: Ints = np.empty(0, np.int64)
        # (3, n) scores of each probe: first after its segment, at its segment's best, last.
        self._known = np.empty((3, 0))

    def evaluate(
        self, learner: Learner, segments: Sequence[Segment], events: int
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Asks a model about all probes.

        Args:
            learner: it only predicts.
            segments: with their probes, in the order of the stream.
            events: that had come in when the model was as it is.

        Returns:
            metrics by name, and one entry for each segment: ``begin, end, probes, score, low,
            high``. Both are empty where there are no probes.
        """
        segments = [segment for segment in segments if len(segment)]
        if not segments:
            return {}, []
        rows = Batch.concat([segment.rows for segment in segments if segment.rows is not None])
        index = np.concatenate([segment.index for segment in segments])
        now = self._scores(learner, rows)
        first, best, last = self._recall(index)
        found: dict[str, float] = {
            "stability/segments": len(segments),
            "stability/probes": len(rows),
        }
        if self.task == "classification" and (known := ~np.isnan(last)).any():
            loss, gain = knowledge(last[known] > 0.5, now[known] > 0.5)
            found |= _finite({"stability/knowledge_loss": loss, "plasticity/knowledge_gain": gain})
        new_row = self._take_up(segments, index, now, events)
        homes = [np.flatnonzero((index >= s.begin) & (index < s.end)) for s in self._spans]
        for span, home in zip(self._spans, homes, strict=True):
            if span.ended and not span.missed:
                fresh = home[np.isnan(first[home])]
                first[fresh] = best[fresh] = now[fresh]
        if new_row and not segments[-1].ended:  # it stands before this evaluation
            _improve(best, now, homes[:-1])
        found |= self._named() | self._intervals(now, first, best, homes)
        found["stability/missed"] = sum(span.missed for span in self._spans)
        newest = replace(rows[max(0, len(rows) - _LOOKED_INTO) :], y=None, segment=None, probe=None)
        found |= plasticity(learner, newest)
        if new_row and segments[-1].ended:  # it is this evaluation
            _improve(best, now, homes[:-1])
        self._index, self._known, self.events = index, np.stack([first, best, now]), events
        return found, [
            {
                "begin": span.begin,
                "end": span.end,
                "probes": len(home),
                **self._score(now[home]),
            }
            for span, home in zip(self._spans, homes, strict=True)
        ]

    def _scores(self, learner: Learner, rows: Batch) -> Array:
        """(n,) float64."""
        y = rows.y
        assert y is not None
        scores: Array
        asked = replace(rows, y=None, segment=None, probe=None)
        parts = [learner.predict(part).value for part in asked.micro_batches(_AT_ONCE)]
        value = np.concatenate(parts)
        if self.task == "classification":
            scores = (value == y).astype(np.float64)
        else:  # one that cannot say is as far off as 0
            scores = -np.abs(np.where(np.isnan(value), 0.0, value) - y)
        return scores

    def _recall(self, index: Ints) -> tuple[Array, Array, Array]:
        """What was known of these probes: first, best and last, each (n,), NaN where nothing."""
        known = np.full((3, len(index)), np.nan)
        if len(self._index):
            at = np.minimum(np.searchsorted(self._index, index), len(self._index) - 1)
            same = self._index[at] == index
            known[:, same] = self._known[:, at[same]]
        return known[0], known[1], known[2]

    def _take_up(self, segments: Sequence[Segment], index: Ints, now: Array, events: int) -> bool:
        """Feeds the curves: segments that have begun, ended or been merged since, and how well all
        of them are known. Whether the accuracy matrix has a new row."""
        begins = np.array([segment.begin for segment in segments])
        row = fed = False  # fed: this evaluation, with all spans in it
        for span in self._spans:
            segment = segments[int(np.searchsorted(begins, span.begin, side="right")) - 1]
            if not span.ended and segment.ended:
                # Where it has been merged since, it was the later half.
                span.end, span.ended = segment.end, True
                span.missed = _too_late(span, events)
                self.curves.add(events, _accuracy(self._spans, index, now, row=True), ended=True)
                row = fed = True
        for i, segment in enumerate(segments):
            inside = [s for s in self._spans if segment.begin <= s.begin < segment.end]
            for _ in inside[1:]:
                self.curves.merge(i)
            if inside:
                span = inside[0]
                span.begin, span.end = segment.begin, segment.end
                span.missed = any(part.missed for part in inside)
                self._spans = [s for s in self._spans if s not in inside[1:]]
                continue
            span = _Span(segment.begin, segment.end, segment.ended)
            self._spans.insert(i, span)
            self.curves.begin()
            if segment.ended:
                span.missed = _too_late(span, events)
                known = _accuracy(self._spans[: i + 1], index, now, row=True)
                self.curves.add(events, known, ended=True)
            fed = segment.ended
            row = row or fed
        if not fed:
            self.curves.add(events, _accuracy(self._spans, index, now))
        return row

    def _named(self) -> dict[str, float]:
        found = self.curves.results().named()
        for name in ("forgetting", "forgetting_initial", "bwt"):  # of the same probes, below
            found.pop(f"stability/{name}", None)
        if self.task == "regression":
            # Differences of mean absolute errors read the same; levels do not.
            found = {name: value for name, value in found.items() if "windowed" in name}
        return found

    def _score(self, scores: Array) -> dict[str, float]:
        """The mean of a segment's scores, with a 95% interval (Wilson's for accuracies)."""
        n, mean = len(scores), float(scores.mean())
        if self.task == "regression":
            half = Z95 * float(scores.std()) / n**0.5
            return {"score": mean, "low": mean - half, "high": mean + half}
        low, high = wilson(mean, n)
        return {"score": mean, "low": low, "high": high}

    def _intervals(
        self, now: Array, first: Array, best: Array, homes: Sequence[Ints]
    ) -> dict[str, float]:
        """What is a mean over segments, with 95% intervals. What was lost is taken from the same
        probes then and now: some may have had no label yet when their segment ended, and count from
        when they had."""
        found: dict[str, float] = {}
        classes = self.task == "classification"
        if classes:
            found |= _around("stability/acc", [_binomial(now[home]) for home in homes], 0.0)
        else:
            found["stability/mae"] = -float(np.mean([now[home].mean() for home in homes]))
        least = -1.0 if classes else -np.inf
        for name, then in (("forgetting", best), ("forgetting_initial", first)):
            lost = [then[home] - now[home] for home in homes[:-1]]
            past = [known for part in lost if len(known := part[~np.isnan(part)])]
            if past:
                found[f"stability/{name}"] = float(np.mean([part.mean() for part in past]))
                pairs = [self._paired(part) for part in past]
                found |= _around(f"stability/{name}", pairs, least)
        if "stability/forgetting" in found:
            found["stability/bwt"] = -found["stability/forgetting_initial"]
            # The best of several accuracies is that of a lucky sample, too: what was forgotten
            # since may be less than it seems, but not less than since the first.
            low = "stability/forgetting_low"
            found[low] = min(found[low], found["stability/forgetting_initial_low"])
        return found

    def _paired(self, lost: Array) -> tuple[float, float]:
        """Mean loss on the same probes, and the variance of that mean. For the variance half a
        probe is added to each of four cells (Agresti and Min 2005), so that it keeps its word where
        probes are few, or none has changed; not for the mean, as what that is off by would add up
        over segments."""
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
            "spans": np.array([[s.begin, s.end, s.ended, s.missed] for s in self._spans], np.int64),
            "index": self._index,
            "known": self._known,
        }

    def load(self, state: State) -> None:
        self.events = state["events"]
        self.curves.load(state["curves"])
        spans = state["spans"].reshape(-1, 4).tolist()
        self._spans = [
            _Span(begin, end, bool(ended), missed=bool(missed))
            for begin, end, ended, missed in spans
        ]
        self._index, self._known = state["index"], state["known"]


def _accuracy(spans: Sequence[_Span], index: Ints, now: Array, row: bool = False) -> Array:
    """(k,) mean score of each span; as it was, where none of its probes is kept any more. In a row
    of the matrix, NaN for the last where its end was missed."""
    for span in spans:
        start, stop = np.searchsorted(index, [span.begin, span.end])
        if start < stop:
            span.score = float(now[start:stop].mean())
    known = np.array([span.score for span in spans])
    if row and spans[-1].missed:
        known[-1] = np.nan
    return known


def _too_late(span: _Span, events: int) -> bool:
    """Whether a segment ended so long ago that what is known of it now is not what was known then:
    more than a tenth of its length."""
    return events - span.end > max(_LATE * (span.end - span.begin), _LATE_EVENTS)


def _improve(best: Array, now: Array, homes: Sequence[Ints]) -> None:
    """Where a segment is known better now than it ever was, now is its best."""
    for home in homes:
        if now[home].mean() > best[home].mean():
            best[home] = now[home]


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share that was found in n (Wilson 1927)."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * (share * (1 - share) / n + Z95**2 / (4 * n * n)) ** 0.5 / (1 + Z95**2 / n)
    return centre - half, centre + half


def _binomial(hits: Array) -> tuple[float, float]:
    """Accuracy, and the variance of it; for that two more are right, and two more wrong (Agresti
    and Coull 1998)."""
    n = len(hits)
    share = (float(hits.sum()) + 2) / (n + 4)
    return float(hits.mean()), share * (1 - share) / n


def _around(name: str, parts: Sequence[tuple[float, float]], least: float) -> dict[str, float]:
    """The ends of a 95% interval around the mean over segments, of (mean, variance) of each; from
    ``least`` to 1 where those are bounds."""
    mean = float(np.mean([m for m, _ in parts]))
    half = Z95 * float(np.sum([v for _, v in parts])) ** 0.5 / len(parts)
    most = 1.0 if np.isfinite(least) else np.inf
    return {f"{name}_low": max(least, mean - half), f"{name}_high": min(most, mean + half)}


def _finite(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if np.isfinite(value)}
