"""Validation errors in the words of a job file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.errors import JobError
from pipeline.config.job import load

WriteJob = Callable[..., Path]


def reported(job: Path, override: str) -> str:
    """Return the problem of a job, without the name of its file."""
    with pytest.raises(JobError) as error:
        load(job, [override])
    file, _, problem = str(error.value).partition(": ")
    assert file == str(job)
    return problem


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=x", "seed: expected an integer, got 'x'"),
        ("seed=1.5", "seed: expected an integer, got 1.5"),
        ("seed=-1", "seed: expected a number of at least 0, got -1"),
        ("threads=true", "threads: expected a number, got True"),
        ("name=3", "name: expected a string, got 3"),
        ("name='a b'", r"name: expected a string that matches ^[A-Za-z0-9][\w.-]*$, got 'a b'"),
        ("evaluate.probes.segments=5", "evaluate.probes.segments: expected a multiple of 2, got 5"),
        ("evaluate=3", "evaluate: expected a mapping, got 3"),
        ("stream={kind: recorded, label: class}", "stream.path: missing"),
        ("learner.model.hidden=x", "learner.model.hidden: expected a list, got 'x'"),
        ("learner.model.hidden=[1.5]", "learner.model.hidden.0: expected an integer, got 1.5"),
        (
            "stream.aggregates=[]",
            "stream.aggregates: expected a list of at least 1 or 'auto' or 'none', got []",
        ),
        (
            "learner.optimizer={kind: adams}",
            "learner.optimizer.kind: 'adams': did you mean 'adam'? There are: adam, sgd",
        ),
        (
            "learner.decision={rule: best}",
            "learner.decision.rule: 'best': did you mean 'cost'? There are: argmax, cost, f1",
        ),
        (
            "learner.decision={window: 9}",
            "learner.decision: expected a mapping with a rule, got {'window': 9}",
        ),
        (
            "learner.class_weight=balance",
            "learner.class_weight: expected 'balanced' or a mapping, got 'balance'",
        ),
    ],
)
def test_describe_errors_names_path_and_expectation(
    override: str, line: str, write_job: WriteJob
) -> None:
    assert reported(write_job(), override) == line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stream.features=3", "stream.features: expected a list or a mapping, got 3"),
        (
            "stream.features={numeric: 3}",
            "stream.features.numeric: expected a list or a mapping, got 3",
        ),
        ("stream.path=3", "stream.path: expected a string or a list, got 3"),
    ],
)
def test_describe_errors_joins_the_branches_of_a_union(
    override: str, line: str, write_job: WriteJob
) -> None:
    assert reported(write_job(), override) == line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "stream.label={column: class, classes: [UP, true]}",
            "stream.label: classes must be of one type: all text, all numbers, or true and false; "
            "put quotes around each that is text",
        ),
        (
            "stream.label={column: class, classes: [UP, UP]}",
            "stream.label: a class is stated twice",
        ),
        (
            "stream.label={column: class, classes: [UP, null]}",
            "stream.label.classes: a class is text, a number, or true or false; put quotes around "
            "a text that YAML takes for something else, as null or a time",
        ),
    ],
)
def test_describe_errors_of_a_whole_mapping_is_one_line(
    override: str, line: str, write_job: WriteJob
) -> None:
    """Without the other branches of the union, and without the names of validators."""
    assert reported(write_job(), override) == line
