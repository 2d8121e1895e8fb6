"""``everlearn report``: one page that says what the folder says, and fetches nothing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.build import ReportError, write_report
from pipeline.storage.metric_log import MetricLog

EVIL = "<script>alert('x')</script> & \"co\""


class Read(HTMLParser):
    """A page as a browser reads it: tags, texts by tag, and the figures."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.figures: list[Any] = []
        self._open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"] and "type" in self.tags[-1][1]:
            self.figures.append(json.loads(data))
        elif data.strip():
            self.texts.append((self._open[-1] if self._open else "", data))

    def text(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]

    def trace(self, name: str) -> Any:
        (trace,) = [t for f in self.figures for t in f["data"] if t.get("name") == name]
        return trace


def fill(file: Path, rows: dict[int, dict[str, float]]) -> None:
    writing = MetricLog(file, print)
    for step, metrics in rows.items():
        writing.write(step, metrics)
    writing.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that goes on: 3,000 events, three rows, two evaluations."""
    folder = tmp_path / "run"
    folder.mkdir()
    job = {
        "name": EVIL,
        "seed": 7,
        "stream": {"kind": "recorded", "time": None},
        "track": {"uri": "http://me:secret@host", "alerts": [{"metric": "a", "below": 1}]},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    rows = {
        1000 * i: {
            "online/accuracy": 0.5 + i / 10,
            "online/no_change_accuracy": 0.25,
            "online/accuracy_window": 0.6 + i / 10,
            "system/memory_mb": 100.0 + i,
            "a": 2.0 - i,
        }
        for i in (1, 2, 3)
    }
    fill(folder / "metrics.jsonl", rows)
    served = {"served/accuracy": 0.625, "served/scored": 1234}
    fill(folder / "served.jsonl", {2500: served})
    stability = {
        "stability/forgetting": 0.125,
        "stability/forgetting_low": 0.1,
        "stability/forgetting_high": 0.15,
        "stability/wc_acc": 0.5625,
        "plasticity/learning_accuracy": 0.875,
    }
    fill(folder / "stability.jsonl", {2000: {}, 3000: stability})
    first = {"begin": 0, "end": 1000, "probes": 50, "score": 0.9, "low": 0.8, "high": 0.95}
    second = first | {"begin": 1000, "end": 3000, "score": 0.7, "low": 0.6, "high": 0.8}
    lines = [{"events": 1000, "segments": [first]}, {"events": 3000, "segments": [first, second]}]
    (folder / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{half")
    return folder


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """The folder of a bench: two learners, one of them with two seeds."""
    folder = tmp_path / "bench"
    folder.mkdir()

    def entry(learner: str, seed: int, acc: float) -> dict[str, Any]:
        return {
            "scenario": f"split {EVIL}",
            "learner": learner,
            "seed": seed,
            "metrics": {"acc": acc, "forgetting": 1 - acc, "fwt": None},
            "matrix": [[acc, None], [0.5, acc]],
            "evaluations": {"events": [10, 20], "accuracy": [[acc, None], [0.5, acc]]},
            "seconds": 2.0,
            "cpu_seconds": 3.0,
            "state_bytes": 2_500_000,
            "buffer_bytes": 1_500_000,
            "gradient_steps": 4000,
            "events": 20,
        }

    results = [entry(EVIL, 0, 0.6), entry(EVIL, 1, 0.8), entry("finetune", 0, 0.25), {"no": 1}]
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_tiles_show_the_last_rows(run: Path) -> None:
    page = Read(write_report(run))
    assert page.text("b") == ["3,000", "0.800", "0.625", "0.125", "0.562", "0.875"]
    notes = page.text("span")
    assert "no-change baseline 0.250" in notes
    assert "1,234 predictions scored" in notes
    assert "95% interval 0.100 to 0.150" in notes
    assert any("still running" in text for text in page.text("p"))


def test_figures_of_a_run_have_its_numbers(run: Path) -> None:
    page = Read(write_report(run))
    assert page.trace("learner")["x"] == [1000, 2000, 3000]
    assert page.trace("learner")["y"] == pytest.approx([0.7, 0.8, 0.9])
    assert page.trace("forgetting")["y"] == [0.125]
    (heat,) = [t for f in page.figures for t in f["data"] if t["type"] == "heatmap"]
    assert heat["z"] == [[0.9, 0.9], [None, 0.7]]
    assert [f["data"][0]["x"] for f in page.figures if f["data"][0].get("error_y")] == [[0, 2000]]
    alerts = [s["x0"] for s in page.figures[0]["layout"]["shapes"]]
    assert alerts == [2000]  # a: 1, 0, -1 is below 1 from the second row on
    headings = ["Online", "Stability", "Segments", "Retention", "System", "Job"]
    assert page.text("h2") == headings
    assert any("a below 1" in text for text in page.text("p"))


def test_page_shows_what_a_learner_publishes(run: Path) -> None:
    published = {"learner/routing_entropy": 0.5, f"learner/{EVIL}": 2.0}
    fill(run / "metrics.jsonl", {4000: published, 5000: published})
    page = Read(write_report(run))
    assert "Learner" in page.text("h2")
    assert page.trace("routing entropy")["y"] == [0.5, 0.5]
    (titles,) = [
        [f["layout"][axis]["title"]["text"] for axis in ("yaxis", "yaxis2")]
        for f in page.figures
        if "routing entropy" in str(f["layout"])
    ]
    assert titles[1] == "routing entropy"
    assert "<" not in titles[0]


def test_page_has_the_buffer_and_once_seen_events(run: Path) -> None:
    once = [
        {"first": t, "last": t, "since": t, "asked": 10_000, "right": round(8000 * t**-0.2)}
        for t in (1, 3, 10, 30, 100)
    ]
    line = {"events": 3500, "segments": [], "once_seen": once}
    (run / "evaluations.jsonl").write_text(json.dumps(line))
    fill(run / "replay.jsonl", {1000: {"strength/1.0:2.0": 1, "interval/8:16": 3}})
    page = Read(write_report(run))
    assert {"Once seen", "Replay"} <= set(page.text("h2"))
    assert "The power law fits better: a steep fall, then a slow one." in page.text("p")
    heats = [t for f in page.figures for t in f["data"] if t["type"] == "heatmap"]
    assert [heat["y"] for heat in heats] == [[8, 16], [1, 2]]  # the interval first


def unequal(run: Path, third: bool = False) -> Path:
    """Give a run the classes ``no`` and EVIL, of which ``no`` is much more frequent."""
    matrix = [[70, 10, 0], [5, 15, 0], [0, 1, 2]] if third else [[70, 10], [5, 15]]
    classes = ["no", EVIL, "third"][: len(matrix)]
    calibration = {"class": EVIL, "predicted": [0.2], "observed": [0.25], "events": [100]}
    metrics = {"online/f1": 0.625, "online/average_precision": 0.5, "online/macro_f1": 0.75}
    summary = {"confusion": {"classes": classes, "matrix": matrix}, "calibration": calibration}
    (run / "summary.json").write_text(json.dumps({**summary, "events": 3000, "metrics": metrics}))
    return run


def test_page_of_unequal_classes_shows_their_scores(run: Path) -> None:
    window = {"online/f1_window": 0.5, "online/average_precision_window": 0.75}
    fill(run / "metrics.jsonl", {4000: window | {"online/accuracy_window": 0.5}})
    page = Read(write_report(unequal(run)))
    assert {"Classes", "Calibration"} <= set(page.text("h2"))
    assert "0.625" in page.text("b")
    assert {f"F1 of {EVIL}", "average precision 0.500"} <= set(page.text("span"))
    # Precision, recall and F1: 70 / 75, 70 / 80 and 140 / 155; 15 / 25, 15 / 20 and 30 / 45.
    cells = [text for text in page.text("td") if text.strip()]
    assert cells[:4] == ["0.933", "0.875", "0.903", "80"]
    assert cells[4:8] == ["0.600", "0.750", "0.667", "20"]
    assert page.trace("F1")["y"] == [0.5]
    assert page.trace("average precision")["y"] == [0.75]
    assert page.trace("model")["y"] == [0.25]


def test_page_of_many_unequal_classes_shows_macro_f1(run: Path) -> None:
    fill(run / "metrics.jsonl", {4000: {"online/macro_f1_window": 0.5}})
    page = Read(write_report(unequal(run, third=True)))
    assert "macro-F1" in page.text("span")
    assert "0.750" in page.text("b")
    assert page.trace("macro-F1")["y"] == [0.5]


def test_page_of_equal_classes_shows_accuracy_alone(run: Path) -> None:
    summary = {"confusion": {"classes": ["a", "b"], "matrix": [[5, 1], [1, 5]]}, "events": 12}
    (run / "summary.json").write_text(json.dumps(summary))
    page = Read(write_report(run))
    assert "Classes" in page.text("h2")
    assert "Calibration" not in page.text("h2")
    assert not any("F1" in text for text in page.text("span"))
    assert [t["name"] for t in page.figures[0]["data"]] == ["learner", "alert"]


def test_job_section_leaves_out_secrets(run: Path) -> None:
    page = Read(write_report(run))
    assert page.text("th") == ["name", "seed", "stream.kind"]
    assert page.text("td") == [EVIL, "7", "recorded"]
    assert "secret" not in re.sub(r"<script>.*?</script>", "", (run / "report.html").read_text())


def test_table_of_a_bench_by_hand(bench: Path) -> None:
    page = Read(write_report(bench))
    cells = [text.strip() for text in page.text("td", "small")]
    # Mean and sample deviation of 0.6 and 0.8: 0.7 and 0.141; there is no FWT.
    row = ["2", "0.700", "± 0.141", "0.300", "± 0.141", *["-"] * 7, "2.0", "± 0.0", "3.0", "± 0.0"]
    row += ["2.50", "± 0.00", "1.50", "± 0.00", "4,000", "± 0"]
    assert cells[: len(row)] == row
    assert cells[len(row) : len(row) + 3] == ["1", "0.250", "0.750"]
    assert page.text("h2") == ["Results", f"split {EVIL}"]
    heats = [t for f in page.figures for t in f["data"] if t["type"] == "heatmap"]
    assert [heat["z"] for heat in heats] == [[[0.7, None], [0.5, 0.7]], [[0.25, None], [0.5, 0.25]]]
    assert page.trace("finetune")["y"] == [0.25, 0.375]


@pytest.mark.parametrize("which", ["run", "bench"])
def test_page_is_self_contained(which: str, request: pytest.FixtureRequest) -> None:
    file = write_report(request.getfixturevalue(which))
    page = Read(file)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "a", "base")
        assert not {"src", "href", "srcset", "data", "onload"} & attributes.keys()
    for style in page.text("style"):
        assert "url(" not in style
        assert "@import" not in style
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    # plotly.js stands in it, once.
    assert sum(len(text) > 1_000_000 for text in page.text("script")) == 1


@pytest.mark.parametrize("which", ["run", "bench"])
def test_page_escapes_text_of_files(which: str, request: pytest.FixtureRequest) -> None:
    file = write_report(request.getfixturevalue(which))
    assert "<script>alert" not in file.read_text()
    page = Read(file)
    scripts = [a for tag, a in page.tags if tag == "script"]
    assert len(scripts) == len(page.figures) + 2  # plotly.js, and what draws
    assert any(EVIL in text for text in page.text("h1", "h2"))


def test_run_that_has_just_started_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: young\n")
    page = Read(write_report(tmp_path))
    assert page.text("h1") == ["young"]
    assert page.text("b") == ["0"]
    assert page.figures == []
    assert any("evaluate.probes.share" in text for text in page.text("p"))


def test_page_of_a_regression_shows_errors(tmp_path: Path) -> None:
    metrics = {"online/mae": 12.5, "online/no_change_mae": 40.0, "online/mae_window": 11.0}
    fill(tmp_path / "metrics.jsonl", {10: metrics})
    probed = {"begin": 0, "end": 10, "probes": 3, "score": -12.0, "low": -14.0, "high": -10.0}
    evaluation = {"events": 10, "segments": [probed]}
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\n")
    page = Read(write_report(tmp_path))
    assert page.figures[-1]["layout"]["yaxis"]["title"]["text"] == "minus the mean absolute error"
    assert page.figures[-1]["data"][0]["y"] == [-12]
    assert page.text("b") == ["10", "12.5"]
    assert "mean absolute error" in page.text("span")
    assert page.trace("learner")["y"] == [11]


def test_report_of_a_real_run_shows_its_summary(
    everlearn: Callable[..., Any],
    write_job: Callable[..., Path],
    summary: Callable[[Path], dict[str, Any]],
) -> None:
    everlearn("run", write_job(), "--run-dir", "r", "--max-events", 600, code=0)
    outcome = everlearn("report", "r", "--out", "page.html")
    assert "written to page.html" in outcome.err
    page = Read(Path("page.html"))
    ended = summary(Path("r"))
    assert page.text("b")[:2] == [
        f"{ended['events']:,}",
        f"{ended['metrics']['online/accuracy']:.3f}",
    ]
    assert "learner.buffer.capacity" in page.text("th")
    assert {"Classes", "Calibration"} <= set(page.text("h2"))
    matrix = ended["confusion"]["matrix"]
    assert sum(map(sum, matrix)) == ended["metrics"]["online/scored"]
    (heat,) = [t for f in page.figures for t in f["data"] if "texttemplate" in t]
    assert heat["text"] == [[f"{count:,}" for count in row] for row in matrix]


def test_report_is_written_into_the_folder_by_default(
    everlearn: Callable[..., Any], run: Path
) -> None:
    everlearn("report", run)
    assert Read(run / "report.html").text("h1") == [EVIL]


def test_report_refuses_a_folder_without_run_or_bench(
    everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "dir").mkdir()
    line = everlearn("report", "dir", code=2).line
    for name in ("job.yaml", "metrics.jsonl", "summary.json", "results.json"):
        assert name in line
    assert "nowhere is not a folder" in everlearn("report", "nowhere", code=2).line
    (tmp_path / "dir" / "results.json").write_text("{half")
    assert "results.json cannot be read" in everlearn("report", "dir", code=2).line
    (tmp_path / "dir" / "results.json").write_text("[7]")
    assert "has no results" in everlearn("report", "dir", code=2).line
    assert not (tmp_path / "dir" / "report.html").exists()


def test_report_names_a_file_that_cannot_be_written(
    everlearn: Callable[..., Any], run: Path
) -> None:
    line = everlearn("report", run, "--out", "no/where.html", code=2).line
    assert "no/where.html: No such file or directory" in line


def test_report_without_plotly_names_the_remedy(
    everlearn: Callable[..., Any], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)  # as where it is not installed
    assert "pip install 'everlearn[bench]'" in everlearn("report", run, code=2).line
    with pytest.raises(ReportError):
        write_report(run)
