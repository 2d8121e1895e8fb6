"""Prequential metrics: each event is predicted before it is learned, and scored when its label
arrives (Gama, Sebastião and Rodrigues 2013, "On evaluating stream learning algorithms").

Each metric covers the whole stream and a sliding ``window`` of events; accuracy, log-loss and
errors also have a fading version. The no-change baseline (Žliobaitė et al. 2015) is computed with
them: on a stream with autocorrelated labels a model must beat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from streams.core.batch import Array, Ints
from streams.core.hashing import mix
from streams.core.schema import Task
from streams.core.state_dict import State
from streams.operators.label_join import Outcome, no_labels

_FOLD = 512  # outcomes per block; independent of micro-batches
_BINS = 1024
_EPS = 1e-15
_U64 = np.uint64


@dataclass(slots=True)
class _ScoredOutcomes:
    """The columns of m outcomes that the metrics need, each (m,)."""

    y: Array  # class codes, or targets
    value: Array  # predictions; -1 or NaN: none
    no_change: Array  # the last label known; -1 or NaN: none
    loss: Array  # -ln of the probability given to y; NaN without probabilities
    score: Array  # probability given to class 1; NaN without probabilities

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, rows: slice) -> _ScoredOutcomes:
        return _ScoredOutcomes(*(getattr(self, name)[rows] for name in _COLUMNS))

    @staticmethod
    def concat(parts: list[_ScoredOutcomes]) -> _ScoredOutcomes:
        return _ScoredOutcomes(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS)
        )

    def state(self) -> State:
        return {name: getattr(self, name) for name in _COLUMNS}


_COLUMNS = ("y", "value", "no_change", "loss", "score")


def _empty(task: Task) -> _ScoredOutcomes:
    label = np.int64 if task == "classification" else np.float64
    dtypes = (label, label, label, np.float64, np.float64)
    return _ScoredOutcomes(*(np.empty(0, dtype) for dtype in dtypes))


class Prequential:
    """Prequential metrics over a stream of outcomes.

    The state does not depend on how outcomes are batched: they are folded 512 at a time, and the
    remainder is part of the state.

    Args:
        task: classification or regression.
        window: length of the sliding window, in events.
        fading: the factor alpha of S_i = L_i + alpha S_{i-1}; about 1 / (1 - alpha) events count.
    """

    def __init__(self, task: Task, window: int = 1000, fading: float = 0.999) -> None:
        self.task = task
        self.window = window
        self.fading = fading
        self._waiting: list[Outcome] = []
        self._count = 0  # outcomes in _waiting
        self._left = _empty(task)  # folded next
        self._recent = _empty(task)  # the last ``window`` of those folded
        self._sums = dict.fromkeys(("scored", "abstained", "nc", "lag"), 0)
        self._tally = np.zeros((3, 0), np.int64)  # by class: labels, predictions, both at once
        self._nc_correct = 0
        self._loss = np.zeros(2)  # sum of losses, number of them
        self._scores = np.zeros((2, _BINS), np.int64)  # histogram of scores by label
        self._errors = np.zeros(4)  # sums of |e|, e^2, and of the same for no-change
        self._faded = np.zeros(5)  # weight, then correct (or |e|, e^2), loss weight, loss
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
            self._left = self._left.rows(slice(whole, None))
            self._count = len(self._left)

    def _reduce(self) -> None:
        """Append the waiting outcomes to the columns, in order."""
        parts = [self._left]
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
            loss = score = np.full(len(y), np.nan)
            if probas:
                loss, score = _loss_and_score(y, np.concatenate(probas))
            parts.append(_ScoredOutcomes(y, value, no_change, loss, score))
        self._waiting.clear()
        self._left = _ScoredOutcomes.concat(parts)

    def _fold(self, block: _ScoredOutcomes) -> None:
        """Add a block to all sums and to the window."""
        self._recent = _ScoredOutcomes.concat([self._recent, block]).rows(slice(-self.window, None))
        answered, known = ~no_labels(block.value), ~no_labels(block.no_change)
        self._sums["scored"] += int(answered.sum())
        self._sums["abstained"] += int((~answered).sum())
        self._sums["nc"] += int(known.sum())
        y, value = block.y[answered], block.value[answered]
        fade = self.fading ** np.arange(len(y) - 1, -1, -1)
        past = self.fading ** len(y)
        if self.task == "regression":
            error = value - y
            baseline = block.no_change[known] - block.y[known]
            self._errors += [
                np.abs(error).sum(),
                (error * error).sum(),
                np.abs(baseline).sum(),
                (baseline * baseline).sum(),
            ]
            added = [fade.sum(), fade @ np.abs(error), fade @ (error * error), 0, 0]
            self._faded = self._faded * past + added
            return
        self._tally = _add_tally(self._tally, y, value)
        self._nc_correct += int((block.no_change[known] == block.y[known]).sum())
        loss = block.loss[answered]
        finite = ~np.isnan(loss)
        self._loss += [loss[finite].sum(), finite.sum()]
        scored = answered & ~np.isnan(block.score) & (block.y < 2)
        if scored.any():
            bins = np.minimum((block.score[scored] * _BINS).astype(np.int64), _BINS - 1)
            both = np.bincount(block.y[scored] * _BINS + bins, minlength=2 * _BINS)
            self._scores += both.reshape(2, _BINS)
        hit = (y == value).astype(np.float64)
        losses = fade[finite] @ loss[finite]
        added = [fade.sum(), fade @ hit, 0, fade[finite].sum(), losses]
        self._faded = self._faded * past + added

    def results(self) -> dict[str, float]:
        """Return the metrics by name after the last outcome; undefined ones are left out, and
        those of errors too large for a float64 are infinite."""
        whole = Prequential(self.task, self.window, self.fading)
        whole.load(self.state())
        with np.errstate(over="ignore", invalid="ignore"):
            if len(whole._left):
                whole._fold(whole._left)
            return whole._regression() if self.task == "regression" else whole._classification()

    def _common(self) -> dict[str, float]:
        scored = self._sums["scored"] + self._sums["abstained"]
        return {
            "online/scored": scored,
            "online/abstained": self._sums["abstained"],
            "online/label_lag": self._sums["lag"] / scored if scored else 0.0,
        }

    def _classification(self) -> dict[str, float]:
        metrics = self._common()
        metrics |= _from_tally(self._tally, "")
        if self._loss[1]:
            metrics["online/log_loss"] = self._loss[0] / self._loss[1]
        binary = self._tally.shape[1] <= 2
        if binary:
            metrics |= _named("auc", auc_of_histogram(self._scores), "")
        if self._sums["nc"]:
            metrics["online/no_change_accuracy"] = baseline = self._nc_correct / self._sums["nc"]
            if "online/accuracy" in metrics and baseline < 1:
                accuracy = metrics["online/accuracy"]
                metrics["online/kappa_temporal"] = (accuracy - baseline) / (1 - baseline)
        if self._faded[0]:
            metrics["online/accuracy_fading"] = self._faded[1] / self._faded[0]
        if self._faded[3]:
            metrics["online/log_loss_fading"] = self._faded[4] / self._faded[3]
        recent = self._recent
        answered, known = ~no_labels(recent.value), ~no_labels(recent.no_change)
        metrics |= _from_tally(
            _add_tally(np.zeros((3, 0), np.int64), recent.y[answered], recent.value[answered]),
            "_window",
        )
        losses = recent.loss[answered]
        losses = losses[~np.isnan(losses)]
        if len(losses):
            metrics["online/log_loss_window"] = losses.mean()
        if binary:
            scored = answered & ~np.isnan(recent.score)
            metrics |= _named("auc", auc(recent.y[scored], recent.score[scored]), "_window")
        if known.any():
            same = recent.no_change[known] == recent.y[known]
            metrics["online/no_change_accuracy_window"] = same.mean()
        return {name: float(value) for name, value in metrics.items()}

    def _regression(self) -> dict[str, float]:
        metrics = self._common()
        n, nc = self._sums["scored"], self._sums["nc"]
        if n:
            metrics["online/mae"] = self._errors[0] / n
            metrics["online/rmse"] = np.sqrt(self._errors[1] / n)
            metrics["online/mae_fading"] = self._faded[1] / self._faded[0]
            metrics["online/rmse_fading"] = np.sqrt(self._faded[2] / self._faded[0])
        if nc:
            metrics["online/no_change_mae"] = self._errors[2] / nc
            metrics["online/no_change_rmse"] = np.sqrt(self._errors[3] / nc)
        recent = self._recent
        for name, column in (("", recent.value), ("no_change_", recent.no_change)):
            answered = ~no_labels(column)
            if answered.any():
                error = column[answered] - recent.y[answered]
                metrics[f"online/{name}mae_window"] = np.abs(error).mean()
                metrics[f"online/{name}rmse_window"] = np.sqrt((error * error).mean())
        return {name: float(value) for name, value in metrics.items()}

    def state(self) -> State:
        self._reduce()
        return {
            "sums": dict(self._sums),
            "nc_correct": self._nc_correct,
            "tally": self._tally,
            "loss": self._loss,
            "scores": self._scores,
            "errors": self._errors,
            "faded": self._faded,
            "left": self._left.state(),
            "recent": self._recent.state(),
            "predictions": f"{self._hash:016x}",
        }

    def load(self, state: State) -> None:
        self._sums = dict(state["sums"])
        self._nc_correct = state["nc_correct"]
        self._tally = np.array(state["tally"])
        self._loss, self._scores = np.array(state["loss"]), np.array(state["scores"])
        self._errors, self._faded = np.array(state["errors"]), np.array(state["faded"])
        self._left = _ScoredOutcomes(**state["left"])
        self._recent = _ScoredOutcomes(**state["recent"])
        self._hash = int(state["predictions"], 16)
        self._waiting, self._count = [], len(self._left)


def _named(name: str, value: float | None, form: str) -> dict[str, float]:
    return {} if value is None else {f"online/{name}{form}": value}


def _width(outcome: Outcome) -> int:
    return -1 if outcome.proba is None else int(outcome.proba.shape[1])


def _loss_and_score(y: Array, proba: Array) -> tuple[Array, Array]:
    """Return loss and score, each (m,) float64, of labels (m,) by probabilities (m, classes).

    A class unknown to the model has probability 0.
    """
    m, width = proba.shape
    known = np.flatnonzero(y < width)
    of_label = np.zeros(m)
    of_label[known] = proba[known, y[known]]
    of_label[np.isnan(proba).any(1)] = np.nan
    # For any width: concatenated rows have the width of the widest.
    score = proba[:, 1].astype(np.float64) if width >= 2 else np.zeros(m)
    return -np.log(np.maximum(of_label, _EPS)), score


def _add_tally(tally: Array, y: Array, value: Array) -> Array:
    """Return a tally (3, k) by class with labels and predictions (m,) added."""
    if not len(y):
        return tally
    k = max(tally.shape[1], int(y.max()) + 1, int(value.max()) + 1)
    new = np.stack([np.bincount(codes, minlength=k) for codes in (y, value, y[y == value])])
    new[:, : tally.shape[1]] += tally
    return new


def _from_tally(tally: Array, form: str) -> dict[str, float]:
    """Return accuracy, balanced accuracy (mean recall over classes seen) and Cohen's kappa."""
    support, predicted, hits = tally
    n = int(support.sum())
    if not n:
        return {}
    accuracy = hits.sum() / n
    seen = support > 0
    recall = hits[seen] / support[seen]
    by_chance = ((support / n) * (predicted / n)).sum()
    kappa = (accuracy - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    return {
        f"online/accuracy{form}": accuracy,
        f"online/balanced_accuracy{form}": recall.mean(),
        f"online/kappa{form}": kappa,
    }


def auc(y: Array, score: Array) -> float | None:
    """Return the area under the ROC curve of binary labels (m,) by scores (m,); ties count half.
    None with one class only."""
    positives = int(y.sum())
    if positives in (0, len(y)):
        return None
    _, group, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[group]
    negatives = len(y) - positives
    return float((rank[y == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_of_histogram(scores: Array) -> float | None:
    """Return the same from a histogram (2, bins) of scores by label.

    Scores in one bin are ties: the error is at most half the share of pairs within one bin.
    """
    negative, positive = scores
    pairs = float(negative.sum()) * float(positive.sum())
    if not pairs:
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)
