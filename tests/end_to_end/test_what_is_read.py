"""What a job reads: runs of which most events die, and inputs that were misread."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Everlearn = Callable[..., Any]
Summary = Callable[[Path], dict[str, Any]]

SHARED = Path(__file__).parents[3] / "shared"
JOB = """
name: read
stream: {{kind: recorded, {stream}}}
learner: {{kind: {learner}}}
"""


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Path]:
    """Copies the folder of a case; returns its job file."""

    def copied(name: str) -> Path:
        if not (SHARED / "cases" / name).is_dir():
            pytest.skip(f"the files of the case {name} are not on this machine")
        shutil.copytree(SHARED / "cases" / name, tmp_path / name)
        return tmp_path / name / "job.yaml"

    return copied


def written_job(stream: str, learner: str = "no-change") -> Path:
    """Write a job whose stream has these keys."""
    file = Path("job.yaml")
    file.write_text(JOB.format(stream=stream, learner=learner))
    return file


def test_text_without_spaces_is_learned(
    everlearn: Everlearn, summary: Summary, case: Callable[[str], Path]
) -> None:
    """By the network of the case, and by the default learner."""
    job = case("text-without-spaces")
    for learner, least in (((), 0.95), (("--set", "learner=null"), 0.99)):
        folder = job.parent / f"run-{len(learner)}"
        everlearn("run", job, "--run-dir", folder, "--set", "evaluate.window=200", *learner)
        assert summary(folder)["metrics"]["online/accuracy_window"] >= least


# Runs of which most events die


def test_run_most_of_whose_events_die_fails(everlearn: Everlearn, summary: Summary) -> None:
    """With the reasons by count, on a file shorter than the window; resumed, it fails again; with
    another share it ends well, and the summary counts the reasons."""
    lines = ["a,y", *(f"{'bad' if i % 3 else i},{'u' if i % 2 else 'v'}" for i in range(60))]
    Path("a.csv").write_text("\n".join([*lines, "1,2,3", ""]))
    job = written_job("path: a.csv, label: y")
    features = ("--set", "stream.features={numeric: [a]}")
    for resume in ((), ("--resume",)):
        failed = everlearn("run", job, *features, *resume, code=1).line
        assert (
            "41 of all 61 events are dead (40 x column 'a': expected a finite number; 1 x "
            in failed
        )
        assert "--resume" in failed
    everlearn("run", job, *features, "--resume", "--set", "stream.dead_letters.share=0.9")
    whole = summary(Path("runs/read"))
    assert whole["finished"]
    assert whole["fates"]["dead"] == 41 == sum(whole["dead_reasons"].values())
    assert whole["dead_reasons"]["column 'a': expected a finite number"] == 40


@pytest.mark.parametrize("at", [0, 300])
def test_run_fails_at_the_thousandth_event(everlearn: Everlearn, at: int) -> None:
    """Of a long file it reads no more than the window past the first dead event."""
    values = [None if at <= i < at + 600 else i / 7 for i in range(5000)]
    pq.write_table(
        pa.table({"a": ["x" if v is None else str(v) for v in values], "y": [0, 1] * 2500}),
        "a.parquet",
    )
    features = ("--set", "stream.features={numeric: [a]}")
    failed = everlearn("run", written_job("path: a.parquet, label: y"), *features, code=1).line
    assert "501 of the last 1,000 events are dead" in failed


def test_dead_reasons_are_exact_across_a_resume(everlearn: Everlearn, summary: Summary) -> None:
    lines = [
        "a,b,y",
        *(f"{'x' if i % 5 == 0 else i},{'z' if i % 7 == 0 else 1},u" for i in range(400)),
    ]
    Path("a.csv").write_text("\n".join([*lines, ""]))
    job = written_job("path: a.csv, label: y")
    features = ("--set", "stream.features={numeric: [a, b]}", "--set", "checkpoint.every_events=64")
    everlearn("run", job, *features, "--run-dir", "whole")
    everlearn("run", job, *features, "--run-dir", "parts", "--max-events", 150)
    everlearn("run", job, *features, "--run-dir", "parts", "--resume")
    whole, parts = summary(Path("whole")), summary(Path("parts"))
    assert whole["dead_reasons"] == parts["dead_reasons"]
    assert set(whole["dead_reasons"].values()) == {80, 46}
    assert whole["state_digest"] == parts["state_digest"]


# Inputs that were misread


def test_case_decimal_ids_are_learned(
    case: Callable[[str], Path], everlearn: Everlearn, summary: Summary
) -> None:
    everlearn("run", case("decimal-ids"), "--run-dir", "run")
    assert summary(Path("run"))["fates"]["learned"] == 50


def test_decimal_ids_join_labels_of_another_type(everlearn: Everlearn, summary: Summary) -> None:
    """Ids beyond 2**53, as decimals in the events and as text in the labels."""
    ids = [2**53 + i for i in range(50)]
    decimals = pa.array([Decimal(i) for i in ids], pa.decimal128(20, 0))
    pq.write_table(pa.table({"i": decimals, "t": range(50), "x": [1.5] * 50}), "a.parquet")
    lines = [f"{i},{'ab'[i % 2]},{row + 2}" for row, i in enumerate(ids)]
    Path("labels.csv").write_text("\n".join(["i,y,t", *lines, ""]))
    labels = "{path: labels.csv, id: i, label: y, time: t}"
    job = written_job(f"path: a.parquet, id: i, time: t, labels: {labels}")
    everlearn("run", job, "--run-dir", "run")
    assert summary(Path("run"))["fates"]["learned"] == 50


def test_case_lookalike_classes_are_warned_of(
    case: Callable[[str], Path], everlearn: Everlearn, summary: Summary
) -> None:
    """Stated: the dead letters say in what they differ. Not stated: one warning."""
    job = case("lookalike-classes")
    said = everlearn("run", job, "--run-dir", "stated").err
    assert said.count("it differs from 'café' only in Unicode form: ") == 1
    reasons = summary(Path("stated"))["dead_reasons"]
    assert sum(reasons.values()) == 83
    assert all("it differs from 'café' only in Unicode form" in reason for reason in reasons)
    for path, aspects in (("a.csv", "Unicode form"), ("space.csv", "spaces and case")):
        changes = ("--set", "stream.label=label", "--set", f"stream.path={path}")
        said = everlearn("run", job, "--run-dir", path, *changes).err
        assert said.count(f"differ only in {aspects}") == 1
        assert summary(Path(path))["fates"]["dead"] == 0


def test_lookalike_class_late_in_a_stream_is_warned_of(everlearn: Everlearn) -> None:
    """Behind the sample; once, also when the run is resumed."""
    lines = ["x,y", *(f"{i % 7},{'Yes' if i > 1500 and i % 2 else 'yes'}" for i in range(2000))]
    Path("a.csv").write_text("\n".join([*lines, ""]))
    job = written_job("path: a.csv, label: y")
    said = everlearn("run", job, "--max-events", 1800).err
    assert said.count("the classes 'yes', 'Yes' differ only in case") == 1
    assert "differ only" not in everlearn("run", job, "--resume").err


def test_case_yes_and_no_are_classes(
    case: Callable[[str], Path], everlearn: Everlearn, summary: Summary
) -> None:
    everlearn("run", case("yaml-yes-no-classes"), "--run-dir", "run")
    assert summary(Path("run"))["fates"]["learned"] == 60


def test_case_labels_not_in_order_are_warned_of(
    case: Callable[[str], Path], everlearn: Everlearn, summary: Summary
) -> None:
    """Once, with a count; the state is that of a run in parts."""
    job = case("labels-file-not-in-order")
    said = everlearn("run", job, "--run-dir", "whole").err
    assert said.count("is before an earlier row in the time 't', and so are 290 others") == 1
    everlearn("run", job, "--run-dir", "parts", "--max-events", 100)
    everlearn("run", job, "--run-dir", "parts", "--resume")
    digests = {summary(Path(folder))["state_digest"] for folder in ("whole", "parts")}
    assert len(digests) == 1


def test_labels_not_in_order_behind_the_sample_are_counted(
    everlearn: Everlearn, caplog: pytest.LogCaptureFixture
) -> None:
    n = 3000
    Path("a.csv").write_text("\n".join(["i,t,x", *(f"{i},{i},{i % 3}" for i in range(n)), ""]))
    times = [i - 900 if i in (1500, 2500) else i for i in range(n)]
    labels = [f"{i},{'ab'[i % 2]},{time}" for i, time in enumerate(times)]
    Path("l.csv").write_text("\n".join(["i,y,t", *labels, ""]))
    stated = "{path: l.csv, id: i, label: y, time: t}"
    job = written_job(f"path: a.csv, id: i, time: t, labels: {stated}")
    everlearn("run", job)
    (record,) = [r for r in caplog.records if "is before an earlier row" in r.getMessage()]
    assert "l.csv: row 1500" in record.getMessage()
    assert "so are 1 other labels" in record.getMessage()


def test_chicago_taxi_is_learned_as_it_is(everlearn: Everlearn, summary: Summary) -> None:
    """By a job that names the path, the label, the time and the delay of the labels."""
    folders = [Path(os.environ.get("EVERLEARN_DATA", SHARED / "data")), SHARED / "data"]
    files = [folder / "chicago_taxi.csv.gz" for folder in folders]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        pytest.skip("chicago_taxi.csv.gz is not on this machine: name its folder in EVERLEARN_DATA")
    roles = "label: big_tip, time: trip_start_timestamp, label_delay: {events: 100}"
    job = written_job(f"path: {path}, {roles}", "replay")
    said = everlearn("run", job, "--run-dir", "run").err
    assert "column 'pickup_census_tract' is empty" in said
    assert summary(Path("run"))["fates"] == {
        "learned": 15_002,
        **dict.fromkeys(("probe", "expired", "dead", "unlabelled"), 0),
    }


def test_inspect_agrees_with_the_run(everlearn: Everlearn, summary: Summary) -> None:
    """The classes, the task and the columns of the table are those of the model."""
    Path("a.csv").write_text("a,b,c,y\n1,u,,0\n2,v,,1\n3,u,,0\n4,v,,1\n")
    job = written_job("path: a.csv, label: y")
    described = json.loads(everlearn("inspect", job, "--json").out)
    used = [c["name"] for c in described["columns"] if c["use"] in ("numeric", "categorical")]
    everlearn("run", job, "--run-dir", "run")
    assert used == ["a", "b"]
    assert described["classes"] == [0, 1]
