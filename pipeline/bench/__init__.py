"""Benchmarks: scenarios x learners x seeds, each cell an ordinary run measured on test tasks."""

from pipeline.bench.bench import Bench, Results, budgets, tables
from pipeline.bench.cell import Cell, build_cell, job_of, run_cell
from pipeline.bench.measure import Budget, TaskStream

__all__ = [
    "Bench",
    "Budget",
    "Cell",
    "Results",
    "TaskStream",
    "budgets",
    "build_cell",
    "job_of",
    "run_cell",
    "tables",
]
