"""Which aggregates a job has, and what is wrong with those that it states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.callbacks.job_table import job_table
from pipeline.config.errors import JobError
from pipeline.config.job import load
from pipeline.training.builder import aggregates_of_job, build
from pipeline.training.description import describe

N = 400
MIXED, NUMBERS = "a,user,t,label_of\n", "a,b,t,label_of\n"


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    rng = np.random.default_rng(0)

    def write(
        aggregates: Any = None, learner: Any = "replay", mixed: bool = True, **stream: Any
    ) -> Path:
        """A job over a file of N events; the user alone says what the label is."""
        users = rng.integers(0, 20, N)
        y = np.where(users % 2 == 0, "yes", "no")
        named = "u" if mixed else ""
        rows = (
            f"{a:.3f},{named}{u},{t},{label}\n"
            for a, u, t, label in zip(rng.random(N), users, range(N), y, strict=True)
        )
        (tmp_path / "log.csv").write_text((MIXED if mixed else NUMBERS) + "".join(rows))
        settings = {"path": "log.csv", "label": "label_of", "label_delay": {"events": 5}, **stream}
        if aggregates is not None:
            settings["aggregates"] = aggregates
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump({"stream": settings, "learner": learner}))
        return file

    return write


@pytest.mark.parametrize(
    ("aggregates", "learner", "mixed", "by"),
    [
        (None, "replay", True, ["a", "user", "t"]),
        (None, "replay", False, []),
        (None, "prior", True, []),
        ("none", "replay", True, []),
        ("auto", "replay", False, ["a", "b", "t"]),
        ([{"by": "user", "mean": "label"}], "replay", True, ["user"]),
    ],
)
def test_aggregates_by_learner_and_columns(
    job: Callable[..., Path], aggregates: Any, learner: str, mixed: bool, by: list[str]
) -> None:
    loaded = load(job(aggregates, learner, mixed))
    parts = build(loaded)
    given = aggregates_of_job(loaded, parts.stream, parts.stream.schema)
    assert [config.by for config in given] == [(name,) for name in by]
    assert (parts.recipe["aggregates"] is None) == (not by)
    names = [feature.name for feature in parts.loop.learner.schema.features]
    assert names == [f.name for f in parts.stream.schema.features] + ["aggregates"] * bool(by)


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        ({"by": "label_of", "mean": "label"}, "0.by: 'label_of' is the label, which is not known"),
        ({"by": "usr", "mean": "label"}, "0.by: there is no feature 'usr': did you mean 'user'"),
        ({"by": "user", "since_last": True}, "0.since_last: .* no time: state .*stream.time"),
        ({"by": "user", "means": "label"}, "0: unknown key 'means': did you mean 'mean'"),
    ],
)
def test_aggregates_that_do_not_suit_are_named(
    job: Callable[..., Path], aggregate: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=f"stream.aggregates.*{message}"):
        build(load(job([aggregate])))


@pytest.mark.parametrize("wrong", ["automatic", 5, [], {"by": "user"}])
def test_aggregates_of_no_form_are_refused(job: Callable[..., Path], wrong: Any) -> None:
    with pytest.raises(JobError, match=r"job.yaml: stream.aggregates"):
        load(job(wrong))


def test_a_description_names_the_aggregates(job: Callable[..., Path]) -> None:
    stated = [
        {"by": ["user", "a"], "mean": "label"},
        {"by": "user", "mean": "a", "count": True, "scales": [50]},
        {"by": "user", "since_last": True},
    ]
    loaded = load(job(stated, time="t"))
    parts = build(loaded)
    described = describe(loaded, parts)
    assert described.aggregates == (
        "label mean by user and a (in bins) over 100, 1,000 and all labels",
        "mean of a by user over 50 events",
        "count by user over 50 events",
        "time since the last event by user",
    )
    assert described.as_json()["aggregates"] == list(described.aggregates)
    assert job_table(described) is not None


def test_a_river_learner_learns_from_aggregates(
    job: Callable[..., Path],
    everlearn: Callable[..., Any],
    summary: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Without a hash of its own it cannot know the user; by the mean of the labels it does."""
    model = [
        {"compose.Discard": ["user"]},
        "preprocessing.StandardScaler",
        "linear_model.LogisticRegression",
    ]
    for name, stated in (("with", [{"by": "user", "mean": "label"}]), ("without", "none")):
        path = job(stated, {"kind": "river", "model": model})
        everlearn("run", path, "--run-dir", tmp_path / name)
    accuracy = {n: summary(tmp_path / n)["metrics"]["online/accuracy"] for n in ("with", "without")}
    assert accuracy["with"] > 0.8
    assert accuracy["without"] < 0.65


@pytest.mark.parametrize(("classes", "rates"), [(2, 1), (3, 3), (8, 8), (9, 0)])
@pytest.mark.parametrize("apart", [False, True])
def test_classes_of_the_sample_are_tracked(
    tmp_path: Path, classes: int, rates: int, apart: bool
) -> None:
    """Labels in the rows, and in a file of their own."""
    stream: dict[str, Any] = {"path": "log.csv", "id": "id", "label": "y"}
    (tmp_path / "log.csv").write_text(
        "id,c,y\n" + "".join(f"{i},{'ab'[i % 2]},l{i % classes}\n" for i in range(90))
    )
    if apart:
        labels = "".join(f"{i},l{i % classes},{i}\n" for i in range(90))
        (tmp_path / "labels.csv").write_text("id,y,at\n" + labels)
        own = {"path": "labels.csv", "id": "id", "label": "y", "time": "at"}
        stream = {"path": "log.csv", "id": "id", "time": "id", "labels": own}
        stream["features"] = {"categorical": ["c"]}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({"stream": stream}))
    parts = build(load(file))
    assert parts.stream.class_count_hint == classes
    last = parts.loop.learner.schema.features[-1]
    keys = 1  # c
    width = 3 * rates * (keys + 1)
    assert last.name == ("aggregates" if rates else "c")
    assert not rates or last.shape == (width,)
