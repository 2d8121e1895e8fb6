"""Prequential metrics: each event is predicted before it is learned, and scored when its label
arrives (Gama, Sebastião and Rodrigues 2013, "On evaluating stream learning algorithms").

Each metric covers the whole stream and a sliding ``window`` of events; accuracy, log-loss and
errors also have a fading version. The no-change baseline (Žliobaitė et al. 2015) is computed with
them: on a stream with autocorrelated labels a model must beat it.

The formulas are in ``online/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.evaluation.online.class_metrics import (
    CALIBRATION_BINS,
    add_confusion,
    add_tally,
    calibration_of_histogram,
    calibration_of_table,
    calibration_table,
    histogram_of,
    of_counts,
    scores_of,
)
from pipeline.evaluation.online.grouped_auc import GroupedAuc
from pipeline.evaluation.online.sequence_metrics import SequenceMetrics, that_came
from streams.core.batch import Array, ClassName, Ints
from streams.core.hashing import mix
from streams.core.schema import Schema, Task
from streams.core.state_dict import State
from streams.operators.label_join import Outcome, no_labels

_FOLD = 512  # outcomes per block; independent of micro-batches
_SLACK = 8 * _FOLD
_BINS = 1024


@dataclass(slots=True)
class _ScoredOutcomes:
    """The columns of m outcomes that the metrics need, each (m,)."""

    y: Array  # class codes, or targets
    value: Array  # predictions; -1 or NaN: none
    no_change: Array  # the last label known; -1 or NaN: none
    loss: Array  # -ln of the probability given to y; NaN without probabilities
    score: Array  # probability given to class 1; NaN without probabilities
    brier: Array  # sum over classes of (probability - whether it is y)^2; NaN without probabilities
    confidence: Array  # probability given to the prediction; NaN without probabilities

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, rows: slice | Array) -> _ScoredOutcomes:
        return _ScoredOutcomes(*(getattr(self, name)[rows] for name in _COLUMNS))

    @staticmethod
    def concat(parts: Sequence[_ScoredOutcomes]) -> _ScoredOutcomes:
        """Return the rows of parts, at least one, in order."""
        parts = [part for part in parts if len(part)] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        return _ScoredOutcomes(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS)
        )

    def state(self) -> State:
        return {name: getattr(self, name) for name in _COLUMNS}

    @staticmethod
    def of_state(state: State) -> _ScoredOutcomes:
        """Return the columns of a state; one that an older state lacks is NaN."""
        unknown = np.full(len(state["y"]), np.nan)
        return _ScoredOutcomes(*(state.get(name, unknown) for name in _COLUMNS))


_COLUMNS = ("y", "value", "no_change", "loss", "score", "brier", "confidence")


def _empty(task: Task) -> _ScoredOutcomes:
    label = np.float64 if task == "regression" else np.int64
    dtypes = (*[label] * 3, *[np.float64] * 4)
    return _ScoredOutcomes(*(np.empty(0, dtype) for dtype in dtypes))


class Prequential:
    """Prequential metrics over a stream of outcomes.

    The state does not depend on how outcomes are batched: they are folded 512 at a time, and the
    remainder is part of the state.

    Args:
        task: of the label.
        window: length of the sliding window, in events.
        fading: the factor alpha of S_i = L_i + alpha S_{i-1}; about 1 / (1 - alpha) events count.
        group_by: the categorical column whose values are the groups of the grouped AUC; None: there
            are none.
        schema: of a stream of task sequences; else None. The metrics of classes are then those of
            the types that came.
    """

    def __init__(
        self,
        task: Task,
        window: int = 1000,
        fading: float = 0.999,
        group_by: str | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.task = task
        self.window = window
        self.fading = fading
        self.group_by = group_by
        self._groups = None if group_by is None else GroupedAuc(window)
        self._schema = schema
        self._sequences = None if schema is None else SequenceMetrics(schema, window)
        self._fade = fading ** np.arange(_FOLD - 1, -1, -1)
        self._waiting: list[Outcome] = []
        self._count = 0  # outcomes in _waiting
        self._left = _empty(task)  # folded next
        self._recent = [_empty(task)]  # the last ``window`` of those folded, or more
        self._recent_rows = 0  # since it was cut to the window
        self._sums = dict.fromkeys(("scored", "abstained", "nc", "lag"), 0)
        self._tally = np.zeros((3, 0), np.int64)  # by class: labels, predictions, both at once
        self._nc_correct = 0
        self._loss = np.zeros(2)  # sum of losses, number of them
        self._scores = np.zeros((2, _BINS), np.int64)  # histogram of scores by label
        self._errors = np.zeros(4)  # sums of |e|, e^2, and of the same for no-change
        self._faded = np.zeros(5)  # weight, then correct (or |e|, e^2), loss weight, loss
        # None: an older state did not have it, or there are too many classes for a matrix.
        self._brier: Array | None = np.zeros(2)  # sum, number
        self._calibration: Array | None = np.zeros((3, CALIBRATION_BINS))
        self._confusion: Array | None = np.zeros((0, 0), np.int64)
        self._clicks: Array | None = np.zeros(2)  # sums of the scores and of the labels, of 0 and 1
        self._hash = 0

    def add(self, outcome: Outcome) -> None:
        """Add predictions with their labels."""
        self._waiting.append(outcome)
        self._count += len(outcome.ids)
        if self._count >= _FOLD:
            self._reduce()
            whole = len(self._left) // _FOLD * _FOLD
            with np.errstate(over="ignore", invalid="ignore"):  # an error of 1e300 has no square
                for start in range(0, whole, _FOLD):
                    self._fold(self._left.rows(slice(start, start + _FOLD)))
            self._recent_rows += whole
            if self._recent_rows > self.window + _SLACK:
                self._cut_window()
            self._left = self._left.rows(slice(whole, None))
            self._count = len(self._left)

    def _reduce(self) -> None:
        """Append the waiting outcomes to the columns, in order."""
        parts = [self._left]
        if self._sequences is not None:
            for outcome in self._waiting:
                self._sequences.add(outcome)
            self._waiting = [that_came(outcome) for outcome in self._waiting]
        for _, group in groupby((o for o in self._waiting if len(o.ids)), key=_width):
            outcomes = list(group)
            ids, y, value, no_change, lag = (
                np.concatenate([getattr(o, name) for o in outcomes])
                for name in ("ids", "y", "value", "no_change", "lag")
            )
            self._sums["lag"] += int(lag.sum())
            bits: Ints = mix(value.view(np.int64), 1).view(np.int64)
            hashes = mix(np.bitwise_xor(ids, bits), 2)
            self._hash = (self._hash + int(hashes.sum())) % 2**64
            probas = [o.proba for o in outcomes if o.proba is not None]
            scores = (np.full(len(y), np.nan),) * 4
            if probas:
                scores = scores_of(y, value, np.concatenate(probas, dtype=np.float64))
            parts.append(_ScoredOutcomes(y, value, no_change, *scores))
            if self._groups is not None:
                groups = [o.group for o in outcomes if o.group is not None]
                self._groups.add(np.concatenate(groups), y, scores[1])
        self._waiting.clear()
        self._left = _ScoredOutcomes.concat(parts)

    def _fold(self, block: _ScoredOutcomes) -> None:
        """Add a block of at most 512 outcomes to all sums and to the window."""
        self._recent.append(block)
        answered, known = ~no_labels(block.value), ~no_labels(block.no_change)
        scored = int(np.count_nonzero(answered))
        self._sums["scored"] += scored
        self._sums["abstained"] += len(block) - scored
        self._sums["nc"] += int(np.count_nonzero(known))
        rows = block if scored == len(block) else block.rows(answered)
        fade = self._fade[_FOLD - scored :]
        past = self.fading**scored
        if self.task == "regression":
            error = rows.value - rows.y
            baseline = block.no_change[known] - block.y[known]
            self._errors += [
                np.abs(error).sum(),
                (error * error).sum(),
                np.abs(baseline).sum(),
                (baseline * baseline).sum(),
            ]
            added = [fade.sum(), fade @ np.abs(error), fade @ (error * error), 0, 0]
        else:
            # Where no_change is -1, the label is another.
            self._nc_correct += int(np.count_nonzero(block.no_change == block.y))
            added = self._fold_classes(rows, fade)
        self._faded = self._faded * past + added

    def _fold_classes(self, rows: _ScoredOutcomes, fade: Array) -> list[float]:
        """Add answered rows (m,) to the sums of classification; return what the faded sums gain
        by them, with weights (m,)."""
        y, value, loss, score = rows.y, rows.value, rows.loss, rows.score
        hit = y == value
        added = [fade.sum(), fade @ hit.astype(np.float64), 0]
        self._tally = add_tally(self._tally, y, value)
        if self._confusion is not None:
            self._confusion = add_confusion(self._confusion, y, value, self._tally.shape[1])
        binary = ~np.isnan(score) & (y < 2)
        if binary.any():
            bins = np.minimum((score[binary] * _BINS).astype(np.int64), _BINS - 1)
            both = np.bincount(y[binary] * _BINS + bins, minlength=2 * _BINS)
            self._scores += both.reshape(2, _BINS)
            if self._clicks is not None:
                self._clicks += [score[binary].sum(), np.count_nonzero(y[binary])]
        if np.isnan(loss).any():
            finite = ~np.isnan(loss)
            rows, hit, fade, loss = rows.rows(finite), hit[finite], fade[finite], loss[finite]
        self._loss += [loss.sum(), len(loss)]
        if self._brier is not None:
            self._brier += [rows.brier.sum(), len(loss)]
        if self._calibration is not None:
            self._calibration += calibration_table(rows.confidence, hit)
        return [*added, fade.sum(), fade @ loss]

    def _cut_window(self) -> _ScoredOutcomes:
        """Keep the last ``window`` outcomes of those folded, and return them."""
        recent = _ScoredOutcomes.concat(self._recent).rows(slice(-self.window, None))
        self._recent, self._recent_rows = [recent], 0
        return recent

    def _whole(self) -> Prequential:
        """Return a copy in which all outcomes are folded."""
        whole = Prequential(self.task, self.window, self.fading, self.group_by, self._schema)
        whole.load(self.state())
        if len(whole._left):
            with np.errstate(over="ignore", invalid="ignore"):
                whole._fold(whole._left)
        return whole

    def results(self) -> dict[str, float]:
        """Return the metrics by name after the last outcome; undefined ones are left out, and
        those of errors too large for a float64 are infinite."""
        whole = self._whole()
        with np.errstate(over="ignore", invalid="ignore"):
            metrics = whole._regression() if self.task == "regression" else whole._classification()
        if whole._sequences is not None:
            metrics |= whole._sequences.results()
        return {f"online/{name}": float(value) for name, value in metrics.items()}

    def of_classes(self, names: Sequence[ClassName]) -> dict[str, Any]:
        """Return the confusion matrix and the calibration curve of the whole stream as JSON values,
        with the names of the class codes; those that are not known are left out.

        The curve is that of class 1 where there are at most two classes, otherwise that of the
        predicted class, whose name is None.
        """
        whole = self._whole()
        found: dict[str, Any] = {}
        k = whole._tally.shape[1]  # 0 for regression
        if k and whole._confusion is not None:
            found["confusion"] = {"classes": [*names[:k]], "matrix": whole._confusion.tolist()}
        curve, of = None, None
        if k <= 2 and len(names) > 1:
            curve, of = calibration_of_histogram(whole._scores), names[1]
        elif k > 2 and whole._calibration is not None:
            curve = calibration_of_table(whole._calibration)
        if curve is not None and len(curve.events):
            values = {name: column.round(6).tolist() for name, column in curve._asdict().items()}
            found["calibration"] = {"class": of, **values}
        return found

    def _common(self) -> dict[str, float]:
        scored = self._sums["scored"] + self._sums["abstained"]
        return {
            "scored": scored,
            "abstained": self._sums["abstained"],
            "label_lag": self._sums["lag"] / scored if scored else 0.0,
        }

    def _classification(self) -> dict[str, float]:
        metrics = self._common()
        binary = self._tally.shape[1] <= 2
        metrics |= of_counts(self._tally, self._scores, self._brier, self._calibration, binary)
        if binary and self._clicks is not None and self._clicks[1]:
            metrics["calibration_ratio"] = self._clicks[0] / self._clicks[1]
        if self._groups is not None and binary:
            metrics |= self._groups.results()
        if self._loss[1]:
            metrics["log_loss"] = self._loss[0] / self._loss[1]
        if self._sums["nc"]:
            metrics["no_change_accuracy"] = baseline = self._nc_correct / self._sums["nc"]
            if "accuracy" in metrics and baseline < 1:
                metrics["kappa_temporal"] = (metrics["accuracy"] - baseline) / (1 - baseline)
        if self._faded[0]:
            metrics["accuracy_fading"] = self._faded[1] / self._faded[0]
        if self._faded[3]:
            metrics["log_loss_fading"] = self._faded[4] / self._faded[3]
        return metrics | {f"{k}_window": v for k, v in self._recent_classes(binary).items()}

    def _recent_classes(self, binary: bool) -> dict[str, float]:
        """Return the metrics of classification of the window."""
        recent = self._cut_window()
        answered, known = ~no_labels(recent.value), ~no_labels(recent.no_change)
        y, value = recent.y[answered], recent.value[answered]
        brier, confidence = recent.brier[answered], recent.confidence[answered]
        with_brier, confident = ~np.isnan(brier), ~np.isnan(confidence)
        scored = answered & ~np.isnan(recent.score)
        metrics = of_counts(
            add_tally(np.zeros((3, 0), np.int64), y, value),
            histogram_of(recent.y[scored], recent.score[scored]) if binary else None,
            np.array([brier[with_brier].sum(), with_brier.sum()]),
            calibration_table(confidence[confident], (y == value)[confident]),
            binary,
        )
        losses = recent.loss[answered]
        losses = losses[~np.isnan(losses)]
        if len(losses):
            metrics["log_loss"] = losses.mean()
        if binary and (clicks := np.count_nonzero(recent.y[scored])):
            metrics["calibration_ratio"] = recent.score[scored].sum() / clicks
        if known.any():
            metrics["no_change_accuracy"] = (recent.no_change[known] == recent.y[known]).mean()
        return metrics

    def _regression(self) -> dict[str, float]:
        metrics = self._common()
        n, nc = self._sums["scored"], self._sums["nc"]
        if n:
            metrics["mae"] = self._errors[0] / n
            metrics["rmse"] = np.sqrt(self._errors[1] / n)
            metrics["mae_fading"] = self._faded[1] / self._faded[0]
            metrics["rmse_fading"] = np.sqrt(self._faded[2] / self._faded[0])
        if nc:
            metrics["no_change_mae"] = self._errors[2] / nc
            metrics["no_change_rmse"] = np.sqrt(self._errors[3] / nc)
        recent = self._cut_window()
        for name, column in (("", recent.value), ("no_change_", recent.no_change)):
            answered = ~no_labels(column)
            if answered.any():
                error = column[answered] - recent.y[answered]
                metrics[f"{name}mae_window"] = np.abs(error).mean()
                metrics[f"{name}rmse_window"] = np.sqrt((error * error).mean())
        return metrics

    def state(self) -> State:
        self._reduce()
        added = {} if self._groups is None else {"groups": self._groups.state()}
        if self._sequences is not None:
            added["sequences"] = self._sequences.state()
        return added | {
            "sums": dict(self._sums),
            "nc_correct": self._nc_correct,
            "tally": self._tally,
            "loss": self._loss,
            "scores": self._scores,
            "errors": self._errors,
            "faded": self._faded,
            "brier": self._brier,
            "calibration": self._calibration,
            "confusion": self._confusion,
            "clicks": self._clicks,
            "left": self._left.state(),
            "recent": self._cut_window().state(),
            "predictions": f"{self._hash:016x}",
        }

    def load(self, state: State) -> None:
        self._sums = dict(state["sums"])
        self._nc_correct = state["nc_correct"]
        self._tally = np.array(state["tally"])
        self._loss, self._scores = np.array(state["loss"]), np.array(state["scores"])
        self._errors, self._faded = np.array(state["errors"]), np.array(state["faded"])
        self._brier, self._calibration, self._confusion, self._clicks = (
            None if (value := state.get(name)) is None else np.array(value)
            for name in ("brier", "calibration", "confusion", "clicks")
        )
        if self._groups is not None:
            self._groups.load(state["groups"])
        if self._sequences is not None:
            self._sequences.load(state["sequences"])
        self._left = _ScoredOutcomes.of_state(state["left"])
        self._recent, self._recent_rows = [_ScoredOutcomes.of_state(state["recent"])], 0
        self._hash = int(state["predictions"], 16)
        self._waiting, self._count = [], len(self._left)


def _width(outcome: Outcome) -> int:
    return -1 if outcome.proba is None else int(outcome.proba.shape[1])
