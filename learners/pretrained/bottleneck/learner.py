"""The learner over a discrete key-value bottleneck."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from learners.base import (
    Learner,
    LearnerError,
    NotFiniteError,
)
from learners.networks.class_outputs import ClassOutputs, unseen_classes
from learners.pretrained.bottleneck.codebooks import Codebooks
from learners.pretrained.bottleneck.key_coverage import KeyCoverage
from learners.pretrained.bottleneck.key_sample import GaussianKeys, SampleFile
from learners.pretrained.bottleneck.settings import BottleneckConfig
from learners.pretrained.bottleneck.values import ValueTable, gradient_of
from learners.pretrained.kept_rows import joined, length
from learners.pretrained.rows import FeatureRows
from learners.results import Encoding, Prediction
from streams.core.batch import Array, Batch, ClassName, Ints
from streams.core.schema import Schema, Task
from streams.core.state_dict import State, copied
from streams.core.statistics.running_moments import RunningMoments

_KEPT_BATCH = 32  # labelled events in a batch, where those that were kept are learned
_ASIDE = 5  # one row of five is left out of the fit: it shows how far new rows are from keys
_UNCOVERED = (
    "the keys of learner 'dkvb' do not cover the events of late: these are more than 1.5 times as "
    "far from their keys as the first ones (learner/key_error_ratio), and may be confused. Fit the "
    "keys to a file with events of all kinds (learner.keys: {kind: file, path: ...})"
)


class DiscreteBottleneck(Learner):
    """Frozen keys, trained values (Träuble et al., "Discrete Key-Value Bottleneck", ICML 2023).

    A row fetches one value of each of C codebooks (``Codebooks``). Its outputs are their mean:

        out = 1/C sum_c V_c[code_c(x)],    p = softmax(out)

    The values start at 0, and only they are trained, by gradient descent on the cross-entropy with
    label smoothing. The gradient touches the C rows that an event fetches, so an event overwrites
    nothing that was learned of rows far from it. No task boundary is needed. For predictions, keys
    whose values no event has trained are left out, and the nearest of the others is taken.

    For regression a value is one number, and the loss is half the squared error of targets scaled
    by their running mean and deviation.

    Deviations from the paper, besides those of ``Codebooks.fit``:

    - One step for each event, in place of thousands of passes over a task. Its default length makes
      up for that.
    - A value moves by the mean gradient of the events of a micro-batch that fetch it, and not by
      their sum over the size of the batch: an event then counts as much in a large micro-batch. No
      clipping: the gradient of the values of an event is no longer than sqrt(2 / C).
    - Classes may appear at any time. Those that have not come share one column, which is trained
      as that of each of them, and a new class starts as its copy. So early classes are learned as
      if all had been there from the start: a column of zeros would favour the classes that came
      last.

    Before there are keys, predictions are the class frequencies, or the mean, of the labels by
    then. Labelled events of that time are kept and learned once the keys are there.

    Args:
        config: settings.
        schema: features and label of the stream.
        seed: of projections and keys.

    Raises:
        LearnerError: the step is too long for regression.

    Attributes:
        rows: turns events into rows.
        codebooks: the keys; None before they are fitted.
        values: what the keys fetch; None before these are fitted.
        coverage: whether the keys suit the events that come.
    """

    kind = "dkvb"
    Config = BottleneckConfig
    handles_missing = True
    takes_keys = True
    takes_aggregates = True
    remedy = "mend or leave out that value, or lower the learning rate (learner.lr)"

    def __init__(self, config: BottleneckConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self.config = config
        self._classifies = schema.task == "classification"
        if not self._classifies and config.rate >= 2 * config.codebooks.count:
            raise LearnerError(
                f"learner.lr: steps of {config.rate:g} diverge in regression: stay below "
                f"{2 * config.codebooks.count}, twice the number of codebooks"
            )
        unused = {} if self._classifies else {"calibration": None}
        self.class_outputs = ClassOutputs(config.model_copy(update=unused), schema, "cpu")
        of_file = isinstance(config.keys, SampleFile)
        self._needed = sys.maxsize if of_file else config.keys.events  # type: ignore[union-attr]
        self._draws_seed = seed
        self._start()

    def _start(self) -> None:
        """Start with nothing learned."""
        features, scale = self.schema.features, self.config.scale
        if scale is None:
            scale = len(features) > 1 or features[0].kind != "vector"
        self.rows = FeatureRows(self.schema, scale, self._needed)
        self.targets = RunningMoments(())
        self.coverage = KeyCoverage()
        self.codebooks: Codebooks | None = None
        self.values: ValueTable | None = None
        self._trained = False  # whether there are values to predict with
        self._counts = np.zeros(len(self.classes), np.int64)  # labels, while there are no keys
        self._observed: dict[str, Array] = {}
        self._kept: dict[str, Array] = {}
        self._checksum = ""

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {
            "kind": cls.kind,
            "codebooks": {"count": 16, "keys": 32, "dimension": 3},
            "keys": {"kind": "first", "events": 48},
        }

    def predict(self, batch: Batch) -> Prediction:
        n = len(batch)
        out = None
        if n and self.codebooks is not None and self.values is not None and self._trained:
            codes = self.codebooks.nearest(self.rows.of(batch), masked=True).codes
            out = self.values.outputs(codes)
        if not self._classifies:
            value = np.full(n, self.targets.mean if self.targets.count else np.nan)
            if out is not None:
                value = out[:, 0].astype(np.float64) * self.targets.std() + self.targets.mean
            return Prediction(batch.ids, "regression", value, None, (), self.version)
        if out is not None and self.classes:
            code, proba = self.class_outputs.predict(torch.from_numpy(out[:, :-1]))
        else:
            code, proba = self._prior(n)
        return Prediction(batch.ids, "classification", code, proba, self.classes, self.version)

    def _prior(self, n: int) -> tuple[Ints, Array]:
        """Return the most frequent class and the frequencies of classes, for n events."""
        share = np.zeros(len(self.classes), np.float32)
        total = self._counts.sum()
        share[: len(self._counts)] = self._counts / max(total, 1)
        return np.full(n, share.argmax() if total else -1), np.tile(share, (n, 1))

    def observe(self, batch: Batch) -> None:
        if self.codebooks is not None:
            self.rows.observe(batch)
        elif isinstance(self.config.keys, SampleFile):
            self._read_sample(self.config.keys)
        else:
            self.rows.observe(batch)
            self._observed = joined(self._observed, self.rows.raw(batch))
            if length(self._observed) >= self._needed:
                self._make_keys(self._observed)

    def _observe(self, batch: Batch) -> None:
        if self.codebooks is None or self.rows.observes:  # otherwise it selects rows for nothing
            super()._observe(batch)

    def _read_sample(self, file: SampleFile) -> None:
        """Make the keys from the file that the job names."""
        raw: dict[str, Array] = {}
        for batch in file.read(self.schema):
            if len(batch):
                self.rows.observe(batch)
                raw = joined(raw, self.rows.raw(batch))
        if not raw:
            raise LearnerError(
                f"learner.keys.path: {file.path} has no rows that can be read: it needs the "
                "columns that the learner takes, as vectors where stream.encoder makes them"
            )
        self._checksum = file.sha256() or ""
        self._make_keys(raw)

    def _make_keys(self, raw: dict[str, Array]) -> None:
        """Fit the keys to rows, and learn the labelled events that were kept."""
        if not self.rows.fixed:
            self.rows.fix()
        keys = self.config.keys
        rows = self.rows.encode(raw)[: self._needed]
        aside = np.arange(len(rows)) % _ASIDE == 0
        if isinstance(keys, GaussianKeys):
            sample, judged = keys.sample(rows, self._draws_seed), rows
        elif len(rows) > _ASIDE:
            sample, judged = rows[~aside], rows[aside]
        else:
            sample = judged = rows
        books = self._new_codebooks()
        books.fit(sample)
        found = books.nearest(judged, errors=True)
        assert found.errors is not None
        self.coverage.start(found.codes, found.errors, books.codes)
        self.values = self._new_values(len(self.classes))
        kept, self._kept, self._observed = self._kept, {}, {}
        for start in range(0, length(kept), _KEPT_BATCH):
            part = {name: column[start : start + _KEPT_BATCH] for name, column in kept.items()}
            self._learn_rows(self.rows.encode(part), part["y"])

    def _new_codebooks(self) -> Codebooks:
        books = Codebooks(self.config.codebooks, self.rows.dimension, self._draws_seed)
        self.codebooks = books
        return books

    def _new_values(self, classes: int) -> ValueTable:
        """Return values of 0; beside those of classes, a column for classes that have not come."""
        shape = self.config.codebooks
        outputs = classes + 1 if self._classifies else 1
        return ValueTable(shape.count * shape.keys, shape.count, outputs)

    def learn(self, batch: Batch) -> None:
        y = batch.y
        assert y is not None
        if not self._classifies:
            self.targets.update(y)
        if self.codebooks is not None:
            self._learn_rows(self.rows.of(batch), y)
            return
        if self._classifies:
            self._counts = np.bincount(y, minlength=len(self.classes)) + _grown(
                self._counts, len(self.classes)
            )
        self._kept = joined(self._kept, {**self.rows.raw(batch), "y": y})
        if length(self._kept) >= self._needed and not isinstance(self.config.keys, SampleFile):
            raw = {name: column for name, column in self._kept.items() if name != "y"}
            self._make_keys(raw)  # events that were not observed

    def _learn_rows(self, x: Array, y: Array) -> None:
        """Take a step with rows (n, d) and their labels (n,)."""
        assert self.codebooks is not None
        assert self.values is not None
        codes, errors = self.codebooks.nearest(x, errors=True)
        assert errors is not None
        self.coverage.update(codes, errors)
        out = self.values.outputs(codes)
        if self._classifies:
            out = self._grow(out, y)
            unseen = max(self.config.expected_classes - len(self.classes), 1)
            gradient = gradient_of(out, y, unseen, self.config.label_smoothing)
        else:
            gradient = out - self.targets.scale(y)[:, None]
        if self.values.step(codes, gradient, self.config.rate):
            self._mask()

    def _mask(self) -> None:
        """Leave out of predictions the keys whose values no event has trained."""
        if self.codebooks is not None and self.values is not None:
            self._trained = bool(self.values.trained.any())
            self.codebooks.use_only(self.values.trained)

    def _grow(self, out: Array, y: Ints) -> Array:
        """Fit the probabilities to revealed events, and make room for classes that are new among
        them. Return the outputs (n, classes + 1)."""
        assert self.values is not None
        known = out.shape[1] - 1
        if self.class_outputs.evaluates and known:
            self.class_outputs.evaluate(torch.from_numpy(out[:, :-1]), y)
        new = len(self.classes) - known
        if not new:
            return out
        self.class_outputs.register(self.classes)
        self.values.insert(new)
        return np.concatenate([out[:, :-1], np.repeat(out[:, -1:], new + 1, 1)], 1)

    def encodings(self) -> dict[str, Encoding]:
        return self.rows.encodings()

    def warnings(self, classes: tuple[ClassName, ...]) -> tuple[str, ...]:
        keys = self.config.keys
        if isinstance(keys, SampleFile) and keys.sha256() is None:
            missing = f"learner.keys.path: there is no file {keys.path!r} to fit the keys to"
            return (missing, *unseen_classes(self.config, classes))
        return unseen_classes(self.config, classes)

    def current_warnings(self) -> tuple[str, ...]:
        if not self.coverage.poor:
            return ()
        gaussian = isinstance(self.config.keys, GaussianKeys)
        return (_UNCOVERED if gaussian else f"{_UNCOVERED}, or to a Gaussian (kind: gaussian)",)

    def metrics(self) -> dict[str, float]:
        if self.values is None:
            return {}
        return {"trained_keys": float(self.values.trained.mean()), **self.coverage.metrics()}

    def weight_vector(self) -> Array | None:
        return None if self.values is None else self.values.values.ravel()

    def verify(self) -> None:
        if self.values is not None and not np.isfinite(self.values.values).all():
            raise NotFiniteError("learner 'dkvb': the values are no longer finite")

    @property
    def gradient_steps(self) -> int:
        return self.version

    def servable(self) -> State:
        state: State = {
            **self.common_state(),
            "rows": self.rows.state(),
            "targets": self.targets.state(),
            "counts": self._counts,
            "class_outputs": self.class_outputs.servable(),
            "seed": self._draws_seed,
        }
        if self.codebooks is None or self.values is None:
            return state
        return {**state, "keys": self.codebooks.keys, **self.values.state()}

    def state(self) -> State:
        state = {
            **self.servable(),
            "class_outputs": self.class_outputs.state(),
            "checksum": self._checksum,
        }
        if self.codebooks is not None:
            return {**state, "coverage": self.coverage.state()}
        waiting = {"observed": dict(self._observed), "kept": dict(self._kept)}
        return {**state, **{name: rows for name, rows in waiting.items() if rows}}

    def load(self, state: State) -> None:
        self.load_servable(state)
        self._observed = copied(state.get("observed", {}))
        self._kept = copied(state.get("kept", {}))
        self._checksum = state["checksum"]
        if "coverage" in state:
            self.coverage.load(state["coverage"])
        keys = self.config.keys
        if self._checksum and isinstance(keys, SampleFile):
            found = keys.sha256()
            if found is not None and found != self._checksum:
                raise LearnerError(
                    f"learner.keys.path: {keys.path} is not the file that the keys of the "
                    "checkpoint were fitted to: put that file back, or start another run"
                )

    def load_servable(self, state: State) -> None:
        self.load_common(state)
        self._start()
        self._draws_seed = state["seed"]
        self.rows.load(state["rows"])
        self.targets.load(state["targets"])
        self._counts = np.array(state["counts"])
        self.class_outputs.load(state["class_outputs"], self.classes)
        if "keys" in state:
            self._new_codebooks().load(np.array(state["keys"]))
            self.values = self._new_values(0)
            self.values.load(state)
            self._mask()


def _grown(counts: Ints, classes: int) -> Ints:
    return np.pad(counts, (0, max(classes - len(counts), 0)))
