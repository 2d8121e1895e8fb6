"""Avalanche's strategies as learners of ours, and learners of ours as strategies of Avalanche."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from learners.base import Learner, LearnerError
from learners.baselines.prior import Prior
from learners.integrations import avalanche as avalanche_module
from learners.integrations.avalanche import AvalancheConfig, AvalancheLearner
from learners.integrations.avalanche_strategy import as_strategy
from learners.rehearsal.replay import Replay
from learners.results import Prediction
from pipeline.evaluation.transfer_and_forgetting import ContinualMetrics, continual
from streams.core.batch import Array, Batch
from streams.core.schema import Feature, Schema
from streams.integrations.avalanche import AvalancheStream
from streams.integrations.avalanche import AvalancheStreamConfig as StreamConfig
from streams.integrations.avalanche_library import import_avalanche
from streams.operators.label_join import Revealed

torch.set_num_threads(1)
SCHEMA = Schema((Feature("x", "vector", (4,)),), "classification", (0, 1, 2))
LINEAR = {"kind": "own_parts:Linear"}
SGD = {"kind": "sgd", "lr": 0.1}


class Linear(nn.Module):
    """Starts at 0: what it is after a step can be worked out by hand."""

    def __init__(self, num_classes: int, input_size: int) -> None:
        super().__init__()
        self.out = nn.Linear(input_size, num_classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(x)
        return out


class Narrow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1]


def number(**_: Any) -> int:
    return 3


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_parts", sys.modules[__name__])


def learner(schema: Schema = SCHEMA, seed: int = 1, **settings: Any) -> AvalancheLearner:
    config = AvalancheConfig.model_validate({"kind": "avalanche", **settings})
    return AvalancheLearner(config, schema, seed)


def stream(n: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    x[np.arange(n), y] += 3
    i = np.arange(n)
    return Batch(i, i * 1.0, x, i.astype(np.int32) * 0, i, y, classes=(0, 1, 2))


def feed(to: Learner, batch: Batch, size: int = 10) -> None:
    for part in batch.micro_batches(size):
        to.step(replace(part, y=None), Revealed(part, np.arange(1, len(part) + 1)))


def test_strategy_step_worked_by_hand() -> None:
    """From weights 0 every class has probability 1/3: the gradient is that, less 1 for the label,
    times x."""
    made = learner(model=LINEAR, optimizer=SGD, scale=False)
    batch = replace(stream(1), x=np.array([[1.0, 2.0, 0.0, -1.0]], np.float32), y=np.array([2]))
    made.step(replace(batch, y=None), Revealed(batch, np.ones(1, np.int64)))
    third = 0.1 / 3
    expected = [[-third, -2 * third, 0, third]] * 2 + [[2 * third, 4 * third, 0, -2 * third]]
    np.testing.assert_allclose(made.strategy.model.out.weight.detach(), expected, atol=1e-7)
    np.testing.assert_allclose(
        made.strategy.model.out.bias.detach(), [-third, -third, 2 * third], atol=1e-7
    )
    assert made.version == 1


def test_rows_are_learned_once_in_train_mb_size_steps() -> None:
    made = learner(model=LINEAR, optimizer=SGD, train_mb_size=4, epochs=2)
    feed(made, stream(30))
    assert made.strategy.clock.train_iterations == 3 * 3 * 2  # 4 + 4 + 2 rows, twice


RESERVOIR = {"avalanche.training.storage_policy:ReservoirSamplingBuffer": {"max_size": 30}}
PLUGIN = {"avalanche.training.plugins:ReplayPlugin": {"mem_size": 30, "storage_policy": RESERVOIR}}
STRATEGIES: dict[str, dict[str, Any]] = {
    "Naive": {},
    "Replay": {"mem_size": 30},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "ER_ACE": {"mem_size": 30},
    "MIR": {"mem_size": 30, "subsample": 20},
    "DER": {"mem_size": 30},
    "EWC": {"ewc_lambda": 0.1},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_learns_and_continues_from_state(name: str) -> None:
    settings = {
        "strategy": f"avalanche.training:{name}",
        "args": STRATEGIES[name],
        "model": {"args": {"hidden_size": 16}},
        "optimizer": {"kind": "adam", "lr": 0.01},
    }
    batch, question = stream(400), stream(200, seed=7)
    made = learner(**settings)
    feed(made, batch[:250])
    heir = learner(seed=2, **settings)
    heir.load(copy.deepcopy(made.state()))
    for one in (made, heir):
        feed(one, batch[250:])
    said = made.predict(replace(question, y=None))
    assert (said.value == question.y).mean() > 0.85
    np.testing.assert_array_equal(heir.predict(replace(question, y=None)).proba, said.proba)


def test_replay_strategy_keeps_bounded_uniform_sample() -> None:
    """Avalanche's own memory of ``Replay`` would have one row of each of the first experiences;
    and with each row, the experience that it came from."""
    x = np.repeat(np.arange(3000, dtype=np.float32)[:, None], 100, axis=1)
    rows = replace(stream(3000), x=x)
    schema = Schema((Feature("x", "vector", (100,)),), "classification", (0, 1, 2))
    args = ({"mem_size": 30}, {"plugins": [PLUGIN]})
    for name, settings in zip(("Replay", "Naive"), args, strict=True):
        strategy = f"avalanche.training:{name}"
        made = learner(schema, strategy=strategy, args=settings, model=LINEAR, scale=False)
        (memory,) = (
            p.storage_policy for p in made.strategy.plugins if hasattr(p, "storage_policy")
        )
        feed(made, rows)
        remembered = np.array([sample[0][0].item() for sample in memory.buffer])
        assert len(remembered) == 30
        # 10 of each third on average; the standard deviation is 2.6.
        assert (np.abs(np.histogram(remembered, 3, (0, 3000))[0] - 10) < 8).all()
        assert [sample[1] for sample in memory.buffer] == rows.y[remembered.astype(int)].tolist()  # type: ignore[index]
        # All rows would be 1.2 MB; 64 micro-batches of 10, between two tidyings, are 0.26.
        assert made.memory_bytes() < 500_000


@pytest.mark.parametrize("module", ["learners.avalanche", "learners.integrations.avalanche"])
def test_load_reads_states_of_earlier_versions(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class of a stored data set had another name, in a module that may have moved since."""
    settings = {"strategy": "avalanche.training:Replay", "args": {"mem_size": 30}, "model": LINEAR}
    donor = learner(**settings)
    feed(donor, stream(60))
    rows = avalanche_module._LabelledRows
    own = rows.__module__, rows.__name__, rows.__qualname__
    with monkeypatch.context() as earlier:
        earlier.setitem(sys.modules, module, SimpleNamespace(_Rows=rows))  # type: ignore[misc]
        rows.__module__, rows.__name__, rows.__qualname__ = module, "_Rows", "_Rows"
        try:
            state = donor.state()
        finally:
            rows.__module__, rows.__name__, rows.__qualname__ = own
    assert b"_Rows" in state["opaque"].tobytes()
    assert b"_LabelledRows" not in state["opaque"].tobytes()
    heir = learner(seed=2, **settings)
    heir.load(state)
    feed(heir, stream(60, seed=1))
    feed(donor, stream(60, seed=1))
    unlabelled = replace(stream(20, seed=2), y=None)
    assert np.array_equal(heir.predict(unlabelled).proba, donor.predict(unlabelled).proba)  # type: ignore[arg-type]


def test_outputs_limit_the_classes() -> None:
    schema = replace(SCHEMA, classes=())
    with pytest.raises(LearnerError, match=r"learner.outputs: .* state its classes"):
        learner(schema)
    made = learner(schema, outputs=2, model=LINEAR)
    with pytest.raises(LearnerError, match=r"2 outputs, and the stream has 3 classes or more"):
        feed(made, stream(30))
    with pytest.raises(LearnerError, match="2 outputs"):
        learner(outputs=2)
    assert learner(schema, outputs=7).strategy.model.classifier.out_features == 7


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"strategy": "no_such:Naive"}, r"learner.strategy: no module named 'no_such'"),
        ({"strategy": "avalanche.training:Niave"}, r"learner.strategy: .*did you mean 'Naive'"),
        ({"strategy": "own_parts:number"}, "gives int, which is no strategy of Avalanche"),
        ({"strategy": "avalanche.training:MIR"}, r"MIR cannot be made: TypeError.*mem_size"),
        ({"args": {"colour": 1}}, r"learner.strategy: avalanche.training:Naive cannot be made"),
        ({"args": {"plugins": [{"own_parts:none": {}}]}}, "has no 'none'"),
        ({"args": {"plugins": [{"own_parts:number": [1]}]}}, "are wanted by name, not"),
        ({"model": {"kind": "own_parts:number"}}, "gives int, not a torch.nn.Module"),
        ({"model": {"kind": "own_parts:Narrow"}}, r"maps 2 rows \(4,\) to \(2, 1\); one output"),
        ({"model": {"args": {"hidden_layers": "x"}}}, r"learner.model: .* cannot be made: TypeErr"),
        ({"model": {"args": {"input_size": 5}}}, r"cannot take rows \(4,\)"),
        ({"optimizer": {"lr_start": 0.1}}, "lr_start: a strategy of Avalanche has one"),
    ],
)
def test_impossible_settings_raise_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(LearnerError, match=says) as error:
        learner(**settings)
    assert "\n" not in str(error.value)


def test_unsaveable_strategy_raises_at_first_step() -> None:
    made = learner(strategy="avalanche.training:AGEM", args={"patterns_per_exp": 5})
    with pytest.raises(LearnerError, match=r"AGEM cannot be saved: .*generator"):
        feed(made, stream(30))


def test_verify_diverged_weights_raises() -> None:
    made = learner(model=LINEAR)
    made.verify()
    with torch.no_grad():
        made.strategy.model.out.weight[0, 0] = torch.nan
    with pytest.raises(LearnerError, match="no longer finite, the training diverged"):
        made.verify()


def test_missing_avalanche_raises_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "avalanche", None)
    monkeypatch.setattr(
        "learners.integrations.avalanche.import_avalanche", import_avalanche.__wrapped__
    )
    with pytest.raises(LearnerError, match=r"pip install 'everlearn\[avalanche\]'"):
        learner()


# Forgetting, by Avalanche and by us.


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.targets = x, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Any:
        return self.x[row], self.targets[row]


def digits(online: bool = False) -> Any:
    """Five experiences of two digits each, tested on 70 images each: as many, so that Avalanche's
    mean over a stream is the mean over its tasks."""
    from sklearn.datasets import load_digits

    library = import_avalanche().benchmarks
    convert = library.utils.as_classification_dataset
    found = load_digits()
    x, y = torch.from_numpy(found.data / 16).float(), torch.from_numpy(found.target)
    train, test = [], []
    for first in range(0, 10, 2):
        pair = [torch.nonzero(y == digit)[:, 0] for digit in (first, first + 1)]
        tested = torch.cat([rows[:35] for rows in pair])
        rest = torch.cat([rows[35:] for rows in pair])
        rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))]
        train.append(convert(Rows(x[rest], y[rest])))
        test.append(convert(Rows(x[tested], y[tested])))
    whole = library.benchmark_from_datasets(train=train, test=test)
    if not online:
        return whole
    split = library.split_online_stream(whole.streams["train"], 10, shuffle=False)
    split.name = "train"
    return library.CLScenario([split, whole.streams["test"]])


class NoLogger:
    def log_metrics(self, values: Sequence[Any]) -> None: ...


def evaluator() -> Any:
    import_avalanche()
    from avalanche.evaluation import metrics
    from avalanche.training.plugins import EvaluationPlugin

    return EvaluationPlugin(
        metrics.accuracy_metrics(epoch=True, experience=True, stream=True),
        metrics.bwt_metrics(experience=True, stream=True),
        metrics.forgetting_metrics(experience=True, stream=True),
        metrics.loss_metrics(stream=True),
        loggers=[NoLogger()],
    )


class Found(NamedTuple):
    """What Avalanche said at the end, and what we say of the same predictions."""

    acc: float
    bwt: float
    forgetting: float
    loss: float
    ours: ContinualMetrics


def held_out() -> list[tuple[torch.Tensor, Array]]:
    sets = [experience.dataset for experience in digits().streams["test"]]
    return [
        (torch.stack([d[i][0] for i in range(70)]), np.array([d[i][1] for i in range(70)]))
        for d in sets
    ]


def by_avalanche(settings: dict[str, Any], online: bool) -> Found:
    """Trains in Avalanche's loop, and evaluates at the end of each task."""
    benchmark = digits(online)
    strategy = as_strategy(settings, benchmark, seed=1, train_mb_size=10, evaluator=evaluator())
    experiences = list(benchmark.streams["train"])
    tasks = [e.origin_experience if online else e for e in experiences]
    rows, values = [], {}
    for i, experience in enumerate(experiences):
        strategy.train(experience, eval_streams=[], shuffle=False)
        if i + 1 == len(tasks) or tasks[i + 1] is not tasks[i]:
            values = strategy.eval(benchmark.streams["test"])
            said = [(strategy.model(x).numpy().argmax(1), y) for x, y in held_out()]
            rows.append([float((value == y).mean()) for value, y in said])
    names = ("Top1_Acc_Stream", "StreamBWT", "StreamForgetting", "Loss_Stream")
    found = [values[f"{name}/eval_phase/test_stream"] for name in names]
    return Found(*found, continual(np.array(rows)))


def by_us(settings: dict[str, Any]) -> ContinualMetrics:
    """Reads the online split as a stream of events, and tells the tasks by their segments."""
    config = {"kind": "avalanche", "benchmark": "own_parts:digits", "args": {"online": True}}
    events = AvalancheStream(StreamConfig.model_validate(config), Path())
    made = Replay(Replay.Config.model_validate(settings), events.schema, 1)
    whole = Batch.concat(list(events.read({}, 512)))
    assert whole.segment is not None
    rows = []
    for task in range(events.tasks):
        feed(made, replace(whole.take(whole.segment == task), segment=None), 10)
        rows.append([_accuracy(made, events.task_test(j)) for j in range(events.tasks)])
    return continual(np.array(rows))


def _accuracy(made: Learner, test: Batch) -> float:
    return float((made.predict(replace(test, y=None)).value == test.y).mean())


REPLAY = {
    "kind": "replay",
    "model": {"kind": "mlp", "hidden": [32]},
    "optimizer": {"kind": "adam", "lr": 0.003},
    "buffer": {"capacity": 50},
    "replay_size": 10,
    "steps": 4,
}
SLOW = {**REPLAY, "steps": 1}
"""Learns too little of a task in its time, and more of it later, by replay."""

NAIVE = {
    "kind": "avalanche",
    "strategy": "avalanche.training:Naive",
    "model": {"args": {"hidden_size": 64, "drop_rate": 0}},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "epochs": 5,
}


@pytest.mark.parametrize("settings", [REPLAY, SLOW], ids=["replay", "slow"])
def test_offline_metrics_equal_avalanche(settings: dict[str, Any]) -> None:
    offline = by_avalanche(settings, online=False)
    ours = offline.ours
    assert ours.acc == pytest.approx(offline.acc, abs=1e-6)
    assert ours.bwt == pytest.approx(offline.bwt, abs=1e-6)
    assert ours.forgetting_initial == pytest.approx(offline.forgetting, abs=1e-6)
    assert abs(offline.forgetting) > 0.05
    assert 0.7 < ours.acc < 0.95
    assert 0 < offline.loss < 2


def test_maximum_forgetting_exceeds_after_late_gain() -> None:
    slow = by_avalanche(SLOW, online=False)
    assert slow.forgetting < -0.05  # Avalanche: better than each was at its end
    assert slow.ours.forgetting > slow.forgetting + 0.05  # but not so than each was later


def test_online_avalanche_reports_zero_forgetting() -> None:
    for settings, least in ((NAIVE, 0.9), (REPLAY, 0.1)):
        offline, online = by_avalanche(settings, False), by_avalanche(settings, True)
        assert offline.forgetting > least
        assert online.forgetting == online.bwt == 0.0
        assert online.ours.forgetting_initial > least
    # Replay sees the same micro-batches both ways, so that what it forgets is the same.
    assert online.ours.forgetting_initial == pytest.approx(offline.forgetting, abs=1e-6)
    ours = by_us(REPLAY)
    assert ours.forgetting_initial == pytest.approx(offline.forgetting, abs=1e-6)
    assert ours.acc == pytest.approx(offline.acc, abs=1e-6)


class Fixed(Prior):
    """Says what it is told to say."""

    proba: Array | None = None
    value: Array = np.array([1, -1, 0])

    def predict(self, batch: Batch) -> Prediction:
        return Prediction(batch.ids, "classification", self.value, self.proba, self.classes, 0)


def test_strategy_outputs_are_by_label() -> None:
    """Classes 2, 5 and 6 of seven labels; the last column is for who cannot say."""
    import_avalanche()
    made = Fixed(Prior.Config(kind="prior"), replace(SCHEMA, classes=(2, 5, 6)), 1)
    strategy = as_strategy(made, evaluator=evaluator())
    told = strategy.model(torch.zeros(3, 4))
    assert told.shape == (3, 8)
    assert told.argmax(1).tolist() == [5, 7, 2]
    made.proba = np.array([[0.25, 0.75, 0], [0, 0, 0], [0.5, 0.2, 0.3]])
    told = strategy.model(torch.zeros(3, 4)).exp()
    assert told.argmax(1).tolist() == [5, 7, 2]
    np.testing.assert_allclose(told[0, [2, 5, 6]], [0.25, 0.75, 1e-7], atol=1e-9)
    with pytest.raises(LearnerError, match="label 3 is none of the stated classes"):
        strategy.model.step(torch.zeros(3, 4), torch.tensor([2, 3, 5]))


@pytest.mark.parametrize("classes", [(), ("a", "b"), (-1, 0), (True, False)])
def test_as_strategy_classes_not_labels_raises(classes: Any) -> None:
    made = Prior(Prior.Config(kind="prior"), replace(SCHEMA, classes=classes), 1)
    with pytest.raises(LearnerError, match="must be stated, and be the labels"):
        as_strategy(made)
    with pytest.raises(LearnerError, match="need a benchmark"):
        as_strategy({"kind": "prior"})


def test_training_metrics_see_predictions_before_learning() -> None:
    """A prior predicts the label that it has seen most, and learns event by event: of these, it
    says 1 from the second on, which is right at the second, third, fourth and seventh."""
    library = import_avalanche().benchmarks
    convert = library.utils.as_classification_dataset
    rows = Rows(torch.zeros(9, 4), torch.tensor([1, 1, 1, 1, 0, 0, 1, 0, 2]))
    benchmark = library.benchmark_from_datasets(train=[convert(rows)])
    made = Prior(Prior.Config(kind="prior"), SCHEMA, 1)
    strategy = as_strategy(made, evaluator=evaluator(), train_mb_size=3)
    values = strategy.train(benchmark.streams["train"], eval_streams=[], shuffle=False)
    assert made.version == 9
    assert values["Top1_Acc_Epoch/train_phase/train_stream"] == pytest.approx(4 / 9)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own_avalanche_job.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "from avalanche.benchmarks import benchmark_from_datasets\n"
        "from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute\n"
        "def rows(n, first):\n"
        "    y = first + torch.arange(n) % 2\n"
        "    x = torch.randn(n, 6)\n"
        "    x[torch.arange(n), y] += 4\n"
        "    label = DataAttribute(y.tolist(), 'targets')\n"
        "    return AvalancheDataset([TensorDataset(x, y)], data_attributes=[label])\n"
        "def make():\n"
        "    train = [rows(300, 2 * k) for k in range(3)]\n"
        "    return benchmark_from_datasets(train=train)\n"
    )
    file = tmp_path / "job.yaml"
    stream = {"kind": "avalanche", "benchmark": "own_avalanche_job:make", "batch_size": 10}
    learner = {
        "kind": "avalanche",
        "strategy": "avalanche.training:Replay",
        "args": {"mem_size": 50},
        "model": {"args": {"hidden_size": 64, "drop_rate": 0}},
        "optimizer": {"kind": "adam", "lr": 0.01},
        "epochs": 3,
    }
    text = {"name": "both", "seed": 3, "stream": stream, "learner": learner}
    file.write_text(yaml.safe_dump({**text, "checkpoint": {"every_events": 200}}))
    yield file
    sys.modules.pop("own_avalanche_job", None)


def test_job_of_avalanche_stream_and_learner_resumes(
    job: Path, everlearn: Any, summary: Any
) -> None:
    everlearn("run", job, "--run-dir", "whole")
    whole = summary(Path("whole"))
    assert whole["events"] == whole["fates"]["learned"] == 900
    assert whole["metrics"]["online/accuracy"] > 0.7
    everlearn("run", job, "--run-dir", "cut", "--max-events", 333)
    everlearn("run", job, "--run-dir", "cut", "--resume")
    cut = summary(Path("cut"))
    assert cut["metrics"] == whole["metrics"]
    assert cut["state_digest"] == whole["state_digest"]  # of all but the strategy: predictions too
