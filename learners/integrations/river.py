"""River classifiers and regressors as learners, event by event."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import pickle
import pkgutil
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from learners.base import (
    Learner,
    LearnerConfig,
    LearnerError,
    NotFiniteError,
)
from learners.integrations.river_numbers import beyond_limits
from learners.registry import UnknownKindError, load_object
from learners.results import Prediction
from streams.core.batch import Array, Batch, ClassName, Column, Features, Ragged
from streams.core.errors import one_line
from streams.core.schema import Schema, Task
from streams.core.settings import unknown
from streams.core.state_dict import State
from streams.operators.label_join import Revealed

Spec = str | dict[str, Any] | list[Any]

_PATH = re.compile(r"[a-z_]+(\.[a-z_]+)*\.[A-Z]\w*|[\w.]+:[\w.]+")  # optim.SGD, my_models:build
_SEEDS = ("seed", "random_state")


class RiverConfig(LearnerConfig):
    """Settings of a river estimator.

    ``model`` names an estimator (``tree.HoeffdingTreeClassifier``), an estimator with parameters
    (``{linear_model.LogisticRegression: {l2: 0.01}}``), a list of them (a pipeline), or the import
    path of a function that builds one (``my_models:build``). A parameter may be an estimator or an
    optimizer in the same notation, or a list of them. For a pipeline as a parameter write
    ``{compose.Pipeline: [...]}``.

    Attributes:
        model: the estimator.
        missing: how a missing number comes to it: as ``none``, the value None, for a pipeline that
            imputes (``preprocessing.StatImputer``), or ``absent``, without its key. By default it
            is the running mean.
    """

    model: Spec
    missing: Literal["none", "absent"] | None = None


class RiverLearner(Learner):
    """Run a river estimator exactly as ``river.evaluate.progressive_val_score`` does.

    A classifier that river does not call multiclass learns ``True`` for one class and ``False`` for
    the other. The first class is ``True`` if its name is ``True`` or ``1``, otherwise the second
    is. State ``classes`` under the label to choose the order. A multiclass classifier learns the
    class names. The state is a pickle of the estimator.
    """

    kind = "river"
    Config = RiverConfig
    per_event = True
    opaque = True

    def __init__(self, config: RiverConfig, schema: Schema, seed: int) -> None:
        super().__init__(config, schema, seed)
        self.handles_missing = config.missing is not None
        self._missing = config.missing
        from river import base

        self.model = build(config.model, seed)
        last = self.model
        while hasattr(last, "_last_step"):
            last = last._last_step
        name = type(last).__name__
        wanted = base.Classifier if schema.task == "classification" else base.Regressor
        if not isinstance(last, wanted):
            raise LearnerError(
                f"learner.model: {name} is not a {wanted.__name__.lower()} of river, and the label "
                f"of this stream is for {schema.task}"
            )
        unfit = [f.name for f in schema.features if f.kind == "image"]
        if unfit:
            raise LearnerError(f"learner 'river' takes numbers and texts, not feature {unfit[0]!r}")
        try:
            pickle.dumps(self.model, protocol=5)
        except Exception as error:  # the objects of a model may raise anything
            raise LearnerError(
                f"learner.model: {name} cannot be saved: {one_line(error)}"
            ) from error
        self.binary = schema.task == "classification" and not self.model._multiclass
        if self.binary and len(schema.classes) > 2:
            raise self._third_class_error(schema.classes)
        # If the model predicts the likeliest class, one call gives class and probabilities.
        self._by_proba = (
            schema.task == "classification"
            and type(last).predict_one is base.Classifier.predict_one
        )
        self._names = [feature.name for feature in schema.features]
        self._last: dict[str, Any] | None = None  # of the events that it has learned
        self._try_texts()

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        model = (
            "naive_bayes.GaussianNB"
            if task == "classification"
            else {"linear_model.LinearRegression": {"optimizer": {"optim.SGD": {"lr": 0.05}}}}
        )
        return {"kind": cls.kind, "model": ["preprocessing.StandardScaler", model]}

    def predict(self, batch: Batch) -> Prediction:
        with np.errstate(all="ignore"):
            return self._prediction(batch, [self._predict_one(x) for x in self._events(batch.x)])

    def verify(self) -> None:
        wrong = beyond_limits(self.model)
        if wrong is None and self._last is not None:  # what is not a weight shows in a prediction
            with np.errstate(all="ignore"):
                out = self._predict_one(self._last)
            numbers = out.values() if isinstance(out, dict) else (out,)
            if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
                wrong = f"it predicts {out}"
        if wrong is not None:
            raise NotFiniteError(f"learner 'river' is of no use any more: {wrong}")

    def learn(self, batch: Batch) -> None:
        for x, y in zip(self._events(batch.x), self._labels(batch), strict=True):
            self.model.learn_one(x, y)
            self._last = x

    def step(self, batch: Batch, revealed: Revealed) -> Prediction:
        """Learn each label just before the event that it precedes, as river does."""
        try:
            with np.errstate(all="ignore"):  # what comes of it is seen in the predictions
                return self._step(batch, revealed)
        except ArithmeticError as error:
            raise _overflow(error) from error

    def _step(self, batch: Batch, revealed: Revealed) -> Prediction:
        events = self._events(batch.x)
        outputs: list[Any] = []
        if len(revealed):
            assert revealed.batch.y is not None
            self._register_classes(revealed.batch.y, revealed.batch.classes)
            self.version += 1
            known = zip(
                revealed.insert_before.tolist(),
                self._events(revealed.batch.x),
                self._labels(revealed.batch),
                strict=True,
            )
            for before, x, y in known:
                while len(outputs) < before:
                    outputs.append(self._predict_one(events[len(outputs)]))
                self.model.learn_one(x, y)
            self._last = x
        while len(outputs) < len(events):
            outputs.append(self._predict_one(events[len(outputs)]))
        self._correct(revealed)
        return self._prediction(batch, outputs)

    def _try_texts(self) -> None:
        """Try the model on a text: many take only numbers, and would fail later in the stream.

        Raises:
            LearnerError: the stream has texts, and the model does not take them.
        """
        features = self.schema.features
        texts = [f.name for f in features if f.kind in ("categorical", "text")]
        if not texts:
            return
        event: dict[str, Any] = {}
        for feature in features:
            numbers = _names_of(feature.name, math.prod(feature.shape)) if feature.shape else []
            event |= dict.fromkeys(numbers or [feature.name], 1.0)
        event |= dict.fromkeys(texts, "a")
        model, y = copy.deepcopy(self.model), True if self.binary else 1
        try:
            model.predict_one(event)
            model.learn_one(event, y)
        except Exception as error:  # a model may raise anything
            raise LearnerError(
                f"learner.model: it takes no texts, as of feature {texts[0]!r} "
                f"({one_line(error)}): "
                "put compose.SelectType, preprocessing.OneHotEncoder or "
                "feature_extraction.BagOfWords before it"
            ) from error

    def _predict_one(self, x: dict[str, Any]) -> Any:
        """Return the output of the model: probabilities by class, a class or a number; NaN where
        Python's numbers overflow."""
        try:
            return self.model.predict_proba_one(x) if self._by_proba else self.model.predict_one(x)
        except ArithmeticError as error:
            if self.schema.task == "classification" and not self._by_proba:
                raise _overflow(error) from error
            return math.nan

    def _prediction(self, batch: Batch, outputs: list[Any]) -> Prediction:
        if self.schema.task == "regression":
            value = np.array([np.nan if out is None else out for out in outputs], np.float64)
            abstains = np.array([out is None for out in outputs], np.bool_)
            return Prediction(batch.ids, "regression", value, None, (), self.version, abstains)
        codes: dict[ClassName, int] = {name: code for code, name in enumerate(self.classes)}
        if self.binary:
            true = self._true(self.classes or batch.classes)
            codes = {True: true, False: 1 - true}
        proba: Array | None = None
        if self._by_proba:
            proba = np.zeros((len(outputs), len(codes)))
            for row, by_class in enumerate(outputs):
                if isinstance(by_class, float):  # it overflowed
                    proba[row], outputs[row] = by_class, {}
                for name, share in outputs[row].items():
                    proba[row, codes[name]] = share
            outputs = [max(out, key=out.get) if out else None for out in outputs]
        value = np.array([-1 if out is None else codes.get(out, -1) for out in outputs], np.int64)
        return Prediction(batch.ids, "classification", value, proba, self.classes, self.version)

    def _events(self, x: Features) -> list[dict[str, Any]]:
        """Return one dict of features per event, as river takes them."""
        names = self._names
        if isinstance(x, np.ndarray):
            if x.ndim == 1:
                x = x[:, None]
            if len(names) != x.shape[1]:
                names = _names_of(names[0], x.shape[1])
            events = [dict(zip(names, row, strict=True)) for row in x.tolist()]
            gaps = self._missing is not None and bool(np.isnan(x).any())
        else:
            columns = _columns(x)
            events = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            gaps = self._missing is not None
        if not gaps:
            return events
        if self._missing == "none":
            return [{k: v if v == v else None for k, v in event.items()} for event in events]
        return [{k: v for k, v in event.items() if v == v} for event in events]

    def _labels(self, batch: Batch) -> list[Any]:
        """Return the labels as the model learns them: targets, class names or booleans."""
        assert batch.y is not None
        y: list[Any] = batch.y.tolist()
        if self.schema.task == "regression":
            return y
        if not self.binary:
            return [batch.classes[code] for code in y]
        if max(y) > 1:
            raise self._third_class_error(batch.classes)
        true = self._true(batch.classes)
        return [code == true for code in y]

    @staticmethod
    def _true(classes: tuple[ClassName, ...]) -> int:
        """Return the code of the class that is learned as ``True``."""
        return 0 if classes and classes[0] in (True, 1) else 1

    def _third_class_error(self, classes: tuple[ClassName, ...]) -> LearnerError:
        return LearnerError(
            f"learner.model: {type(self.model).__name__} knows two classes, and the stream has a "
            f"third, {classes[2]!r}: wrap it in multiclass.OneVsRestClassifier"
        )

    def state(self) -> State:
        return {
            **self.common_state(),
            "opaque": np.frombuffer(pickle.dumps(self.model, protocol=5), np.uint8),
        }

    def load(self, state: State) -> None:
        """Load a pickle. Use it only for checkpoints of one's own with a verified checksum."""
        self.load_common(state)
        self.model = pickle.loads(state["opaque"].tobytes())


def _names_of(vector: str, size: int) -> list[str]:
    """Return the names of the numbers of a vector."""
    return [f"{vector}_{i}" for i in range(size)]


def _columns(x: Mapping[str, Column]) -> dict[str, list[Any]]:
    """Return the values of each column by its name, and of each number of a vector."""
    columns: dict[str, list[Any]] = {}
    for name, column in x.items():
        if isinstance(column, Ragged):
            columns[name] = column.texts()
        elif column.ndim > 1:
            numbers = _names_of(name, column.shape[1])
            columns |= dict(zip(numbers, column.T.tolist(), strict=True))
        else:
            columns[name] = column.tolist()
    return columns


def _overflow(error: ArithmeticError) -> NotFiniteError:
    """Return the error for Python's numbers, which overflow with an exception."""
    return NotFiniteError(f"learner 'river' cannot compute with its numbers: {error.args[-1]}")


def build(spec: Spec, seed: int) -> Any:
    """Return the river object that a specification describes.

    An estimator that takes a seed and has none gets ``seed``, and so does every object that it
    makes itself. Otherwise runs would differ.

    Raises:
        LearnerError: the object cannot be made, or cannot be seeded.
    """
    if isinstance(spec, list):
        if not spec:
            raise LearnerError("learner.model: an empty list makes no pipeline")
        pipeline = build(spec[0], seed)
        for part in spec[1:]:
            step = build(part, seed)
            try:
                pipeline = pipeline | step
            except Exception as error:  # a user's objects may raise anything
                raise LearnerError(
                    f"learner.model: {type(step).__name__} cannot follow "
                    f"{type(pipeline).__name__} in a pipeline: {one_line(error)}"
                ) from error
        return pipeline
    path, params = (spec, {}) if isinstance(spec, str) else _only(spec)
    if ":" in path:
        try:
            make = load_object(path)
        except UnknownKindError as error:
            raise LearnerError(f"learner.model: {error}") from None
    else:
        make = _named(path)
    try:
        accepted = inspect.signature(make).parameters
    except (TypeError, ValueError) as error:
        raise LearnerError(f"learner.model: {path} builds nothing: {one_line(error)}") from error
    args = [_value(value, seed) for value in params] if isinstance(params, list) else []
    named = {k: _value(v, seed) for k, v in params.items()} if isinstance(params, dict) else {}
    for name, value in named.items():
        switch = name in accepted and isinstance(accepted[name].default, bool)
        if switch and isinstance(value, str):
            raise LearnerError(
                f"learner.model: {path}: {name} is {value!r}; true or false is expected"
            )
    if "seed" in accepted:
        named.setdefault("seed", seed)
    try:
        made = make(*args, **named)
    except Exception as error:  # a constructor may raise anything
        raise LearnerError(
            f"learner.model: {path} cannot be made ({one_line(error)}). "
            f"It takes: {', '.join(accepted)}"
        ) from error
    return _seeded(made, seed, path, fresh=inspect.isclass(make))


def _seeded(made: Any, seed: int, path: str, fresh: bool) -> Any:
    """Return the object with ``seed`` wherever it, or an object in it, takes a seed and has none.

    Only a ``fresh`` object is cloned for that. Any other may have learned something, which a clone
    would lose.
    """
    from river import base

    unseeded: dict[str, Any] = {}
    for name, value in _parameters(made).items():
        if name in _SEEDS and value is None:
            unseeded[name] = seed
        elif isinstance(value, base.Base) or hasattr(value, "get_params"):
            seeded = _seeded(value, seed, f"{path}: {name}", fresh)
            if seeded is not value:
                unseeded[name] = seeded
    if not unseeded:
        return made
    why = "what a function builds is taken as it is"
    if fresh:
        try:
            return made.clone(unseeded)
        except Exception as error:  # no clone, or a class that does not keep to river's rules
            why = one_line(error)
    raise LearnerError(
        f"learner.model: {path}: state {next(iter(unseeded))!r} of {type(made).__name__}, seeded: "
        f"without it, runs would differ ({why})"
    )


def _parameters(made: Any) -> dict[str, Any]:
    """Return the parameters of an object, or the steps of a pipeline, by name."""
    for attribute in ("steps", "transformers"):
        if isinstance(parts := getattr(made, attribute, None), dict):
            return parts
    try:
        names = list(inspect.signature(type(made)).parameters)
    except (TypeError, ValueError):
        return {}
    return {name: getattr(made, name) for name in names if hasattr(made, name)}


def _only(spec: dict[str, Any]) -> tuple[str, Any]:
    """Return the path and the parameters in ``{path: parameters}``."""
    if not isinstance(spec, dict) or len(spec) != 1:
        shown = list(spec) if isinstance(spec, dict) else "nothing" if spec is None else spec
        raise LearnerError(
            f"learner.model: one estimator and its parameters are wanted, not {shown}"
        )
    ((path, params),) = spec.items()
    if not isinstance(params, dict | list | None):
        raise LearnerError(
            f"learner.model: the parameters of {path} are wanted by name, not {params!r}"
        )
    return path, params or {}


def _named(path: str) -> Any:
    """Return the class at a dotted path inside river. Raises ``LearnerError``."""
    import river

    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(f"river.{module_name}" if module_name else "river")
    except ModuleNotFoundError:
        known = [module.name for module in pkgutil.iter_modules(river.__path__)]
        raise LearnerError(
            f"learner.model: river has no module {unknown(module_name, known)}"
        ) from None
    except Exception as error:  # a module of river with a missing dependency
        raise LearnerError(f"learner.model: river.{module_name}: {one_line(error)}") from error
    cls = getattr(module, name, None)
    if not inspect.isclass(cls):
        known = [n for n, value in vars(module).items() if inspect.isclass(value)]
        where = module.__name__
        if not module_name:
            known, where = [], "river itself, without a module as in linear_model.Perceptron,"
        raise LearnerError(f"learner.model: {where} has no class {unknown(name, known)}")
    return cls


def _value(value: Any, seed: int) -> Any:
    """Return a parameter: an estimator if it is written as one, a list of them, or itself."""
    if isinstance(value, list):
        return [_value(item, seed) for item in value]
    path = next(iter(value), None) if isinstance(value, dict) and len(value) == 1 else value
    if isinstance(path, str) and _PATH.fullmatch(path):
        return build(value, seed)
    return value
