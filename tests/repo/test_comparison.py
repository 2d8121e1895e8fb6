"""experiments/studies/comparison.py by hand, and that the experiments which use it run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from experiments.studies import power_law, view_batch
from experiments.studies.comparison import Difference, metric, table

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EVERLEARN_DATA") or ROOT.parent / "shared" / "data")


def test_a_difference_by_hand() -> None:
    """Differences 0.02, 0.03 and 0.01: mean 0.02, standard deviation 0.01; Student's t with two
    degrees of freedom is 4.303, so that the interval reaches 0.0248 to each side."""
    d = Difference.of([0.53, 0.55, 0.52], [0.51, 0.52, 0.51])
    assert d.mean == pytest.approx(0.02)
    assert d.high - d.mean == pytest.approx(0.02484, abs=1e-5)
    assert d.low == pytest.approx(-0.00484, abs=1e-5)
    assert (d.above, d.n) == (3, 3)
    assert d.points == "+2.0 [-0.5, +4.5]"
    assert d.verdict == "no difference shown"
    assert Difference.of([0.5, 0.6, 0.7], [0.4, 0.5, 0.6]).verdict == "higher"
    assert Difference.of([0.4, 0.5, 0.6], [0.5, 0.6, 0.7]).verdict == "lower"


def test_one_seed_shows_nothing() -> None:
    d = Difference.of([0.9], [0.1])
    assert (d.low, d.high) == (float("-inf"), float("inf"))
    assert d.verdict == "no difference shown"


def test_the_table() -> None:
    def results(*acc: float) -> list[dict[str, dict[str, float]]]:
        return [{"metrics": {"acc": value, "other": 0.25}} for value in acc]

    found = {"a": results(0.5, 0.7), "b": results(0.4, 0.8)}
    assert metric(found["b"], "acc") == [0.4, 0.8]
    assert table(found, {"acc": "ACC", "other": "that"}, "a", "acc") == [
        "| arm | ACC | that | ACC less that of a | higher in |",
        "|---|---|---|---|---|",
        "| a | 60.0±14 | 25.0±0.0 |  |  |",
        "| b | 60.0±28 | 25.0±0.0 | +0.0 [-127.1, +127.1] | 1 of 2 |",
    ]


@pytest.fixture
def _ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where import paths start
    monkeypatch.setenv("EVERLEARN_DATA", str(DATA))
    torch.set_num_threads(1)


@pytest.mark.usefixtures("_ready")
@pytest.mark.parametrize("stream", list(power_law.STREAMS))
def test_power_law_runs(stream: str, tmp_path: Path) -> None:
    if not (DATA / "mnist-train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"no MNIST in {DATA}")
    lines = power_law.compared(stream, 1, tmp_path, events=50, tests=10)
    assert sum(line.startswith("| ") for line in lines) == 1 + len(power_law.ARMS)
    assert len(lines[-2:]) == len(power_law.ARMS) - 1
    assert all("and of uniform:" in line for line in lines[-2:])


@pytest.mark.claims
@pytest.mark.usefixtures("_ready")
def test_view_batch_runs_with_the_same_budget_for_all(tmp_path: Path) -> None:
    if not (DATA / "cifar10_jpeg.npz").exists():
        pytest.skip(f"no CIFAR-10 in {DATA}")
    lines = view_batch.compared(1, 16, "cpu", tmp_path, tests=10)
    assert "80 events in one pass" in lines[2]
    assert "20 gradient steps with every arm" in lines[2]
    assert sum(line.startswith("| ") for line in lines) == 1 + len(view_batch.ARMS)
