"""Scenarios: data sets as sequences of tasks, for benchmarks of continual learning."""

from __future__ import annotations

from streams.scenarios.catalog import SCENARIOS
from streams.scenarios.datasets import DATASETS, Dataset, load
from streams.scenarios.stream import ScenarioConfig, ScenarioStream

__all__ = ["DATASETS", "SCENARIOS", "Dataset", "ScenarioConfig", "ScenarioStream", "load"]
