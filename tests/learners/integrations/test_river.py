import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from river import (
    base,
    datasets,
    dummy,
    evaluate,
    forest,
    linear_model,
    metrics,
    naive_bayes,
    neighbors,
    preprocessing,
    stats,
    tree,
)

from learners.base import Learner, LearnerConfig, LearnerError
from learners.baselines.no_change import NoChange
from learners.baselines.prior import Prior
from learners.integrations.river import RiverConfig, RiverLearner, build
from streams.core.batch import Batch, ClassName, Ragged
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed
from streams.operators.labels_in_rows import DelayByEvents

ELEC2 = Path(__file__).parents[3] / "streams" / "data" / "elec2.parquet"
SCALED_LR = ["preprocessing.StandardScaler", "linear_model.LogisticRegression"]
ARF = {"forest.ARFClassifier": {"n_models": 3, "seed": 1}}
Event = tuple[dict[str, Any], Any]


class Data:
    """Events as river reads them, and the same as one batch."""

    def __init__(self, events: Iterable[Event], classes: tuple[ClassName, ...] = ()) -> None:
        self.events = [({k: float(v) for k, v in x.items()}, y) for x, y in events]
        names = list(self.events[0][0])
        x = np.array([[event[name] for name in names] for event, _ in self.events])
        labels = [y for _, y in self.events]
        regression = isinstance(labels[0], float)
        self.task: Any = "regression" if regression else "classification"
        self.schema = Schema(tuple(Feature(n, "numeric") for n in names), self.task, classes)
        met = tuple(dict.fromkeys([*classes, *labels]))
        y = np.array(labels if regression else [met.index(label) for label in labels])
        n = np.arange(len(y))
        partition = np.zeros(len(y), np.int32)
        self.batch = Batch(n, n * 60.0, x, partition, n, y, classes=() if regression else met)


def elec2() -> Data:
    table = pq.read_table(ELEC2).slice(0, 2000).to_pylist()
    features = [{k: v for k, v in row.items() if isinstance(v, float)} for row in table]
    return Data(
        [(x, row["class"] == "UP") for x, row in zip(features, table, strict=True)],
        classes=(False, True),
    )


DATA: dict[str, Callable[[], Data]] = {
    "phishing": lambda: Data(datasets.Phishing()),
    "segments": lambda: Data(islice(datasets.ImageSegments(), 800)),
    "trump": lambda: Data(datasets.TrumpApproval()),
    "elec2": elec2,
}


@cache
def data(name: str) -> Data:
    return DATA[name]()


def scored(
    learner: Learner, known: Data, size: int, delay: int, metric: Any, unsaid: float | None = None
) -> Any:
    """The metric of river, told of what our loop's machinery gives, in the order of the labels;
    where nothing was predicted, of ``unsaid``, or nothing."""
    join = DelayByEvents(delay, delay + 1000, exact=learner.per_event)
    outcomes = []
    for batch in known.batch.micro_batches(size):
        pushed = join.push(batch)
        revealed = pushed.revealed
        said = learner.step(replace(batch, y=None), revealed)
        outcomes.append(pushed.settle(said.value, said.proba).outcome())
    for revealed, settled in join.finish(size):
        outcome = settled.outcome()
        learner.step(revealed.batch[:0], revealed)
        outcomes.append(outcome)
    assert sum(len(outcome.y) for outcome in outcomes) == len(known.batch)
    for outcome in outcomes:
        for y, value in zip(outcome.y.tolist(), outcome.value.tolist(), strict=True):
            if value != -1 and not np.isnan(value):
                metric.update(y, value)
            elif unsaid is not None:
                metric.update(y, unsaid)
    return metric


CASES: list[tuple[str, str, Any, Callable[[], Any]]] = [
    (
        name,
        label,
        spec,
        model,
    )
    for name in ("phishing", "elec2")
    for label, spec, model in [
        (
            "lr",
            SCALED_LR,
            lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        ),
        ("tree", "tree.HoeffdingTreeClassifier", tree.HoeffdingTreeClassifier),
        ("arf", ARF, lambda: forest.ARFClassifier(seed=1, n_models=3)),
        ("bayes", "naive_bayes.GaussianNB", naive_bayes.GaussianNB),
    ]
] + [
    ("segments", "tree", "tree.HoeffdingTreeClassifier", tree.HoeffdingTreeClassifier),
    ("segments", "arf", ARF, lambda: forest.ARFClassifier(seed=1, n_models=3)),
    ("segments", "bayes", "naive_bayes.GaussianNB", naive_bayes.GaussianNB),
    (
        "segments",
        "softmax",
        ["preprocessing.StandardScaler", "linear_model.SoftmaxRegression"],
        lambda: preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
    ),
    (
        "trump",
        "linear",
        ["preprocessing.StandardScaler", {"linear_model.LinearRegression": {"intercept_lr": 0.1}}],
        lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1),
    ),
    ("trump", "tree", "tree.HoeffdingTreeRegressor", tree.HoeffdingTreeRegressor),
    (
        "trump",
        "arf",
        {"forest.ARFRegressor": {"n_models": 3, "seed": 1}},
        lambda: forest.ARFRegressor(n_models=3, seed=1),
    ),
]


def marked(case: tuple[str, str, Any, Callable[[], Any]]) -> Any:
    """The case; on two classes each model but one is tried on the smaller data alone."""
    long = case[0] == "elec2" and case[1] != "lr"
    return pytest.param(case, id=f"{case[0]}-{case[1]}", marks=[pytest.mark.soak] * long)


@pytest.mark.parametrize("delay", [0, 48])
@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_scores_equal_progressive_val_score(
    case: tuple[str, str, Any, Callable[[], Any]], delay: int
) -> None:
    name, _, spec, model = case
    known = data(name)
    new = metrics.MAE if known.task == "regression" else metrics.Accuracy
    theirs = new()
    evaluate.progressive_val_score(iter(known.events), model(), theirs, delay=delay or None)
    for size in (1, 32):
        learner = RiverLearner(RiverConfig(kind="river", model=spec), known.schema, seed=3)
        ours = scored(learner, known, size, delay, new())
        assert ours.get() == theirs.get()
        if known.task == "classification":
            assert ours.cm.n_samples == theirs.cm.n_samples  # it abstains where river does


@pytest.mark.parametrize("delay", [0, 48])
@pytest.mark.parametrize("name", ["segments", "phishing", "trump"])
def test_baselines_equal_river(name: str, delay: int) -> None:
    known = data(name)
    cases: list[tuple[type[Learner], Callable[[], Any]]] = [
        (NoChange, dummy.NoChangeClassifier),
        (Prior, dummy.PriorClassifier),
    ]
    new, unsaid = metrics.Accuracy, None
    if known.task == "regression":
        cases = [(Prior, lambda: dummy.StatisticRegressor(stats.Mean()))]
        new, unsaid = metrics.MAE, 0.0  # that is river's mean of nothing
    for cls, model in cases:
        theirs = new()
        evaluate.progressive_val_score(iter(known.events), model(), theirs, delay=delay or None)
        for size in (1, 32):
            learner = cls(LearnerConfig(kind=cls.kind), known.schema, seed=3)
            assert scored(learner, known, size, delay, new(), unsaid).get() == theirs.get()


def river(model: Any, schema: Schema | None = None) -> RiverLearner:
    return RiverLearner(RiverConfig(kind="river", model=model), schema or SCHEMA, seed=5)


SCHEMA = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification")
TEXTS = Schema((Feature("n", "numeric"), Feature("t", "text")), "classification", ("no", "yes"))
IMAGE = Schema((Feature("i", "image", (1, 8, 8)),), "classification")


def test_build_reads_notation() -> None:
    model = river(
        [
            "preprocessing.StandardScaler",
            {
                "linear_model.LogisticRegression": {
                    "optimizer": {"optim.Adam": {"lr": 0.5}},
                    "l2": 0.1,
                }
            },
        ]
    ).model
    logistic = model["LogisticRegression"]
    assert (logistic.optimizer.learning_rate, logistic.l2) == (0.5, 0.1)
    plain = river({"linear_model.LogisticRegression": {"optimizer": "optim.Adam"}}).model
    assert type(plain.optimizer).__name__ == "Adam"
    scaled = {"compose.Pipeline": ["preprocessing.StandardScaler", "linear_model.Perceptron"]}
    bagging = river({"ensemble.BaggingClassifier": {"model": scaled, "n_models": 2}}).model
    assert [list(part.steps) for part in bagging] == [["StandardScaler", "Perceptron"]] * 2
    voting = river(
        {
            "ensemble.VotingClassifier": {
                "models": ["naive_bayes.GaussianNB", "dummy.PriorClassifier"]
            }
        }
    ).model
    assert len(voting) == 2


def test_build_seeds_model_without_seed() -> None:
    assert river("forest.ARFClassifier").model.seed == 5
    assert river(ARF).model.seed == 1


@pytest.mark.parametrize(
    ("model", "schema", "says"),
    [
        ("tree.HoefdingTreeClassifier", SCHEMA, "did you mean 'HoeffdingTreeClassifier'"),
        ("trees.HoeffdingTreeClassifier", SCHEMA, "did you mean 'tree'"),
        ("HoeffdingTreeClassifier", SCHEMA, "without a module"),
        ("tree.base", SCHEMA, "has no class"),
        ([], SCHEMA, "an empty list"),
        ({"a": 1, "b": 2}, SCHEMA, "one estimator"),
        ({"tree.HoeffdingTreeClassifier": 3}, SCHEMA, "by name, not 3"),
        ({"tree.HoeffdingTreeClassifier": {"depth": 3}}, SCHEMA, "It takes: grace_period"),
        ("preprocessing.StandardScaler", SCHEMA, "StandardScaler is not a classifier"),
        ("linear_model.LinearRegression", SCHEMA, "LinearRegression is not a classifier"),
        ("nowhere_models:build", SCHEMA, "no module named 'nowhere_models'"),
        ("math:bild", SCHEMA, "has no 'bild'"),
        (SCALED_LR, TEXTS, "feature 't'"),
        ("naive_bayes.GaussianNB", IMAGE, "feature 'i'"),
        (SCALED_LR, replace(SCHEMA, classes=("a", "b", "c")), "a third, 'c'"),
    ],
)
def test_wrong_model_raises_one_line(model: Any, schema: Schema, says: str) -> None:
    with pytest.raises(LearnerError) as error:
        river(model, schema)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_third_class_raises_with_name() -> None:
    n = np.arange(3)
    names = ("a", "b", "c")
    batch = Batch(n, n * 1.0, np.zeros((3, 2)), n.astype(np.int32), n, n, classes=names)
    with pytest.raises(LearnerError, match="third, 'c'"):
        river(SCALED_LR).step(replace(batch[:0], y=None), Revealed(batch, n * 0))


def test_pipeline_accepts_texts() -> None:
    model = ["feature_extraction.BagOfWords", "naive_bayes.MultinomialNB"]
    spec = [{"compose.Select": ["t"]}, {"feature_extraction.BagOfWords": {"on": "t"}}, model[1]]
    learner = river(spec, TEXTS)
    n = np.arange(64)
    text = Ragged.of_text("good day" if i % 2 else "bad night" for i in range(64))
    x = {"n": np.zeros(64), "t": text}
    batch = Batch(n, n * 1.0, x, n.astype(np.int32), n, n % 2, classes=("no", "yes"))
    learner.step(replace(batch[:0], y=None), Revealed(batch, n * 0))
    assert learner.predict(replace(batch, y=None)).value.tolist() == (n % 2).tolist()


def test_true_is_the_class_named_true() -> None:
    """Whichever of the two comes first, river's ``True`` is ours."""
    n = np.arange(40)
    x = np.where(n % 2, 1.0, -1.0)[:, None] * np.ones((40, 2))
    for first in (True, False):
        names: tuple[ClassName, ...] = (first, not first)
        is_true = n % 2 == 1
        y = np.where(is_true, names.index(True), names.index(False))
        batch = Batch(n, n * 1.0, x, n.astype(np.int32), n, y, classes=names)
        learner = river("linear_model.LogisticRegression")
        learner.step(replace(batch[:0], y=None), Revealed(batch, n * 0))
        said = learner.predict(replace(batch, y=None))
        assert (said.value == y).all()
        assert said.proba is not None
        assert (said.proba.argmax(1) == y).all()
        assert learner.model.predict_one({"a": 1.0, "b": 1.0}) is True


def test_model_that_cannot_be_saved_raises_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_river.py").write_text(
        "from river import compose, naive_bayes\n"
        "def build(): return compose.FuncTransformer(lambda x: x) | naive_bayes.GaussianNB()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LearnerError, match="cannot be saved"):
        river("my_river:build")
    sys.modules.pop("my_river", None)


class Uncloned(base.Regressor):
    """Takes an engine, and cannot be cloned."""

    def __init__(self, engine: Any = None) -> None:
        self.engine = engine or neighbors.SWINN()

    def clone(self, new_params: Any = None, include_attributes: bool = False) -> Any:
        raise NotImplementedError("no clone of this")

    def learn_one(self, x: dict[str, Any], y: float) -> None: ...

    def predict_one(self, x: dict[str, Any]) -> float:
        return 0.0


def knn() -> Any:
    return neighbors.KNNRegressor()


@pytest.mark.parametrize(
    "spec",
    [
        "neighbors.KNNRegressor",
        ["preprocessing.StandardScaler", {"neighbors.KNNRegressor": {"n_neighbors": 3}}],
        {"neighbors.KNNRegressor": {"engine": {"neighbors.SWINN": {"seed": None}}}},
        {"ensemble.BaggingRegressor": {"model": "neighbors.KNNRegressor", "n_models": 2}},
    ],
)
def test_build_seeds_nested_objects(spec: Any) -> None:
    trump = data("trump")

    def answers(seed: int) -> Any:
        config = RiverConfig(kind="river", model=spec)
        learner = RiverLearner(config, trump.schema, seed)
        learner.learn(trump.batch[:400])
        return learner.predict(trump.batch[400:600]).value

    state = random.getstate()
    random.seed(1)
    first = answers(7)
    random.seed(2)
    np.testing.assert_array_equal(answers(7), first)
    random.setstate(state)


def test_build_seeds_nested_and_keeps_stated_seeds() -> None:
    assert build("neighbors.KNNRegressor", 7).engine.seed == 7
    stated = {"neighbors.KNNRegressor": {"engine": {"neighbors.SWINN": {"seed": 3}}}}
    assert build(stated, 7).engine.seed == 3
    pipeline = build(["preprocessing.StandardScaler", "neighbors.KNNRegressor"], 7)
    assert pipeline["KNNRegressor"].engine.seed == 7


def test_build_unseedable_object_raises_what_to_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_models", sys.modules[__name__])
    with pytest.raises(LearnerError, match="own_models:knn: engine: state 'seed' of SWINN"):
        build("own_models:knn", 7)
    with pytest.raises(LearnerError, match=r"state 'engine' of Uncloned.*no clone of this"):
        build("own_models:Uncloned", 7)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("os:path", "os:path builds nothing"),
        ("own_models:fails", "own_models:fails cannot be made .line one two."),
        (["own_models:text", "own_models:text"], "str cannot follow str"),
    ],
)
def test_failing_builder_raises(spec: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_models", sys.modules[__name__])
    with pytest.raises(LearnerError, match=says):
        build(spec, 7)


def fails() -> Any:
    raise RuntimeError("line one\n\x1b[31mtwo")


def text() -> str:
    return "no estimator"


def test_text_for_a_truth_is_refused() -> None:
    """YAML reads ``no`` as text, and a text is true in Python."""
    with pytest.raises(LearnerError, match="true or false is expected"):
        build({"tree.HoeffdingTreeClassifier": {"leaf_prediction": "mc", "binary_split": "no"}}, 1)


def gappy(n: int = 60) -> Data:
    """Numbers of which some are missing, and a label that depends on them."""
    rng = np.random.default_rng(0)
    data = Data((({"a": u, "b": v}, bool(u + v > 0)) for u, v in rng.normal(size=(n, 2))))
    assert isinstance(data.batch.x, np.ndarray)
    data.batch.x[rng.random((n, 2)) < 0.3] = np.nan
    return data


def as_river(data: Data, missing: str) -> Iterable[Event]:
    """The events as a pipeline of river's gets them: with None, or without the key."""
    for row, (_, y) in zip(np.asarray(data.batch.x).tolist(), data.events, strict=True):
        x = {name: None if value != value else value for name, value in zip("ab", row, strict=True)}
        yield ({k: v for k, v in x.items() if v is not None} if missing == "absent" else x), y


@pytest.mark.parametrize("missing", ["none", "absent"])
def test_missing_numbers_come_as_none_or_not_at_all(missing: str) -> None:
    data = gappy()
    impute = {"preprocessing.StatImputer": [["a", {"stats.Mean": {}}], ["b", 0.0]]}
    spec = [*([impute] if missing == "none" else []), *SCALED_LR]
    ours = RiverLearner(RiverConfig(kind="river", model=spec, missing=missing), data.schema, 1)
    assert ours.handles_missing
    theirs = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    if missing == "none":
        theirs = preprocessing.StatImputer(("a", stats.Mean()), ("b", 0.0)) | theirs
    for i, (x, y) in enumerate(as_river(data, missing)):
        event = data.batch[i : i + 1]
        assert ours._predict_one(ours._events(event.x)[0]) == theirs.predict_proba_one(x)
        ours.learn(event)
        theirs.learn_one(x, y)


def test_missing_numbers_are_imputed_before_by_default() -> None:
    assert not RiverLearner(
        RiverConfig(kind="river", model=SCALED_LR), gappy().schema, 1
    ).handles_missing
