"""Compare forgetting on the digits as Avalanche and everlearn report it, offline and online.

Five tasks of two digits each follow one another, in micro-batches of 10. Offline they are five
experiences, online the same events split into experiences of 10 by ``split_online_stream``.
Avalanche's metrics are its own. Those of everlearn are computed from the accuracies of the same
model on the same tests, at the same five moments.

    python experiments/studies/avalanche_forgetting.py
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from learners.integrations.avalanche_strategy import as_strategy
from pipeline.evaluation.transfer_and_forgetting import continual
from streams.integrations.avalanche_library import OwnRandom, import_avalanche

NETWORK = {"model": {"kind": "mlp", "hidden": [64]}, "optimizer": {"kind": "adam", "lr": 0.01}}
OURS: dict[str, dict[str, Any]] = {
    "finetune (everlearn)": {"kind": "finetune", **NETWORK, "steps": 4},
    "replay (everlearn)": {"kind": "replay", **NETWORK, "steps": 4, "buffer": {"capacity": 200}},
}
NAIVE = "Naive (Avalanche)"


class Digits(torch.utils.data.Dataset[Any]):
    """Images of digits (n, 64) with their labels."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.targets = x, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Any:
        return self.x[row], self.targets[row]


def digits() -> Any:
    """Return five experiences of two digits each, in a fixed order. 70 images of each are tests."""
    from sklearn.datasets import load_digits

    library = import_avalanche().benchmarks
    found = load_digits()
    x, y = torch.from_numpy(found.data / 16).float(), torch.from_numpy(found.target)
    train, test = [], []
    for first in range(0, 10, 2):
        pair = [torch.nonzero(y == digit)[:, 0] for digit in (first, first + 1)]
        tested = torch.cat([rows[:35] for rows in pair])
        rest = torch.cat([rows[35:] for rows in pair])
        rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))]
        for split, rows in ((train, rest), (test, tested)):
            split.append(library.utils.as_classification_dataset(Digits(x[rows], y[rows])))
    return library.benchmark_from_datasets(train=train, test=test)


def strategy_of(name: str, benchmark: Any) -> Any:
    """Return the strategy of that name, with Avalanche's metrics."""
    library = import_avalanche()
    metrics = library.evaluation.metrics
    evaluator = library.training.plugins.EvaluationPlugin(
        metrics.accuracy_metrics(stream=True), metrics.forgetting_metrics(stream=True)
    )
    if name in OURS:
        return as_strategy(OURS[name], benchmark, train_mb_size=10, evaluator=evaluator)
    model = library.models.SimpleMLP(10, 64, hidden_size=64, drop_rate=0)
    return library.training.Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=10,
        train_epochs=4,
        evaluator=evaluator,
    )


def run(name: str, online: bool) -> tuple[float, float, float]:
    """Return the accuracy at the end, and forgetting by Avalanche and by everlearn."""
    benchmark = digits()
    train, test = benchmark.streams["train"], benchmark.streams["test"]
    strategy = strategy_of(name, benchmark)
    parts = list(train)
    if online:
        parts = list(import_avalanche().benchmarks.split_online_stream(train, 10, shuffle=False))
    tasks = [part.origin_experience if online else part for part in parts]
    rows, said = [], {}
    for part, task, after in zip(parts, tasks, [*tasks[1:], None], strict=True):
        strategy.train(part, eval_streams=[], shuffle=False)
        if after is not task:
            said = strategy.eval(test)
            rows.append([accuracy(strategy.model, e.dataset) for e in test])
    ours = continual(np.array(rows))
    return ours.acc, said["StreamForgetting/eval_phase/test_stream"], ours.forgetting_initial


def accuracy(model: Any, dataset: Any) -> float:
    samples = [dataset[row] for row in range(len(dataset))]
    with torch.no_grad():
        value = model(torch.stack([x for x, _ in samples])).argmax(1)
    return float(np.mean([v == y for v, (_, y) in zip(value.tolist(), samples, strict=True)]))


def main() -> None:
    torch.set_num_threads(1)
    table = Table(title="Forgetting on the digits, five tasks")
    table.add_column("strategy")
    for column in ("accuracy", "Avalanche", "ours", "accuracy", "Avalanche", "ours"):
        place = "offline" if len(table.columns) < 4 else "online"
        table.add_column(f"{place}\n{column}", justify="right")
    for name in (*OURS, NAIVE):
        with warnings.catch_warnings(), OwnRandom(1).within():
            warnings.simplefilter("ignore")  # of metrics that go to no logger
            found = [*run(name, online=False), *run(name, online=True)]
        table.add_row(name, *(f"{value:.3f}" for value in found))
    Console().print(table)


if __name__ == "__main__":
    main()
