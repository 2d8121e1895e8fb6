"""``everlearn bench``: the same numbers, in whatever way and after whatever death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from pipeline.bench.bench import Bench, budgets, spread, tables
from pipeline.bench.measure import Budget
from pipeline.config.errors import JobError

ROOT = Path(__file__).parents[2]
Everlearn = Callable[..., Any]
TWO = ("bench", "split-digits", "--learner", "replay", "--learner", "finetune", "--seeds", 2)
SLOW = """
import time
from pathlib import Path
from learners.baselines.finetune import Finetune

class Slow(Finetune):
    kind = "slow"

    def learn(self, batch):
        if not Path("hurry").exists():
            time.sleep(0.01)
        super().learn(batch)
"""
FAILING = """
from pathlib import Path
from learners.baselines.finetune import Finetune

class Failing(Finetune):
    kind = "failing"

    def learn(self, batch):
        if self.seed == 1 and not Path("mended").exists():
            raise ValueError("not mended")
        super().learn(batch)
"""


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("slow", "failing"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def results(out: Path | str) -> Any:
    """Return the results of a bench without their durations."""
    cells = json.loads((Path(out) / "results.json").read_text())
    for key in ("seconds", "cpu_seconds"):
        assert all(result.pop(key) > 0 for result in cells)
    return cells


def moments(out: Path) -> dict[Path, int]:
    """Return when each cell was finished."""
    return {file: file.stat().st_mtime_ns for file in out.rglob("result.json")}


class Going:
    """A bench in a process and session of its own."""

    def __init__(self, *args: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, args)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        self.children: list[psutil.Process] = []

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def ends(self) -> tuple[int, str, str]:
        """Return exit status, stdout and stderr once it and its workers have ended."""
        out, err = self.process.communicate(timeout=60)
        _, alive = psutil.wait_procs(self.children, timeout=60)
        assert not alive
        return self.process.returncode, out, err


@pytest.fixture
def going() -> Iterator[Callable[..., Going]]:
    started: list[Going] = []

    def start(*args: object) -> Going:
        started.append(Going(*args))
        return started[-1]

    yield start
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.communicate()


def test_run_in_several_processes_gives_the_same_results(everlearn: Everlearn) -> None:
    first = everlearn(*TWO, "--out", "a")
    everlearn(*TWO, "--out", "b")
    everlearn(*TWO, "--out", "c", "--workers", 2)
    assert results("a") == results("b") == results("c")
    cells = [(r["scenario"], r["learner"], r["seed"]) for r in results("a")]
    assert cells == [("split-digits", name, s) for s in (0, 1) for name in ("replay", "finetune")]
    assert len({r["state_digest"] for r in results("a")}) == 4
    assert (Path("a") / "report.html").exists()
    assert first.out.startswith("split-digits, in %, 2 seeds")
    line = first.err.splitlines()[0]
    assert line == (
        "everlearn: split-digits: gradient steps 136 (replay, finetune); buffer 28.4 kB (replay)"
    )


def test_run_repeats_only_changed_cells(everlearn: Everlearn) -> None:
    out = Path("out")
    everlearn(*TWO, "--out", out)
    before, cells = moments(out), results(out)
    err = everlearn(*TWO, "--out", out).err
    assert "4 of 4 cells have a result already" in err
    assert moments(out) == before
    assert results(out) == cells
    everlearn(*TWO, "--out", out, "--seeds", 3, "--learner", "no-change")
    assert {file: when for file, when in moments(out).items() if file in before} == before
    assert len(results(out)) == 9
    everlearn(*TWO, "--out", out, "--set", "learner.steps=2")
    now = moments(out)
    assert all(now[file] != when for file, when in before.items())
    assert {r["gradient_steps"] for r in results(out)} == {272}
    file = min(before)
    file.write_text(file.read_text()[:-3])  # as no bench leaves it
    everlearn(*TWO, "--out", out, "--set", "learner.steps=2")
    again = moments(out)
    assert {one for one in again if again[one] != now[one]} == {file}


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        pytest.param(signal.SIGKILL, 2, id="SIGKILL-2", marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, 1, id="SIGINT-1"),
        pytest.param(signal.SIGKILL, 1, id="SIGKILL-1"),
        pytest.param(signal.SIGINT, 2, id="SIGINT-2", marks=pytest.mark.soak),
    ],
)
def test_stopped_bench_continues(
    everlearn: Everlearn, going: Callable[..., Going], number: signal.Signals, workers: int
) -> None:
    Path("slow.py").write_text(SLOW)
    out = Path("out")
    args = ("bench", "split-digits", "--learner", "slow:Slow", "--seeds", 4, "--workers", workers)
    one = going(*args, "--out", out)
    one.until(lambda: moments(out))
    if number == signal.SIGINT:
        os.killpg(one.process.pid, number)  # as a terminal does
    else:
        one.process.kill()
    code, printed, err = one.ends()
    assert printed == ""
    assert "Traceback" not in err
    finished = moments(out)
    assert 1 <= len(finished) < 4
    if number == signal.SIGINT:
        assert code == 1
        assert err.splitlines()[-1] == (
            "everlearn: stopped. Finished cells stay in out; the same command continues"
        )
    Path("hurry").touch()
    err = everlearn(*args[:-1], 1, "--out", out).err  # in this process, unlike the first
    assert f"{len(finished)} of 4 cells have a result already" in err
    now = moments(out)
    assert {file: now[file] for file in finished} == finished
    everlearn("bench", "split-digits", "--learner", "finetune", "--seeds", 4, "--out", "plain")
    for slow, plain in zip(results(out), results("plain"), strict=True):
        assert {**slow, "learner": ""} == {**plain, "learner": ""}


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_learner_leaves_finished_cells(everlearn: Everlearn, workers: int) -> None:
    Path("failing.py").write_text(FAILING)
    args = ("bench", "split-digits", "--learner", "failing:Failing", "--seeds", 3, "--out", "out")
    failed = everlearn(*args, "--workers", workers, code=1)
    assert failed.line.startswith(
        "everlearn: bench split-digits failing:Failing, seed 1: ValueError: not mended (details: "
    )
    assert failed.line.endswith("Finished cells stay in out; the same command continues")
    assert failed.out == ""
    finished = moments(Path("out"))
    assert not Path("out/split-digits/failing-Failing-seed-1/result.json").exists()
    Path("mended").touch()
    everlearn(*args)
    assert len(results("out")) == 3
    now = moments(Path("out"))
    assert {file: now[file] for file in finished} == finished


def test_run_reports_an_unbuildable_cell_before_it_starts(everlearn: Everlearn) -> None:
    Path("turned.yaml").write_text("kind: scenario\ndataset: digits\ntasks: {kind: rotated}\n")
    refused = everlearn("bench", "split-digits", "turned.yaml", "--learner", "replay", code=2)
    assert "'rotated' turns images" in refused.line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["split-digit", "--learner", "replay"], "unknown scenario 'split-digit'"),
        (["split-digits", "--learner", "replai"], "'replai': did you mean 'replay'?"),
        (["split-digits", "--learner", "replay:buffr.capacity=3"], "unknown key 'buffr'"),
        (["no.yaml", "--learner", "replay"], "no.yaml: No such file"),
        (["list.yaml", "--learner", "replay"], "list.yaml: expected a mapping"),
        (["recorded.yaml", "--learner", "replay"], "a recorded stream has no tasks to test on"),
        (["split-digits", "--learner", "replay", "--set", "x"], "expected key=value"),
        (["split-digits", "--learner", "replay", "--learner", "replay"], "is listed twice"),
        (
            ["split-digits", "--learner", "replay:scale=no", "--learner", "replay:scale,no"],
            "would share the folder",
        ),
        (["split-digits", "--learner", "replay", "--out", "list.yaml"], "choose another --out"),
        (["split-digits", "--learner", "replay", "--track", "runs"], "--track: "),
    ],
)
def test_bench_refuses_invalid_arguments(
    everlearn: Everlearn, args: list[str], message: str
) -> None:
    Path("list.yaml").write_text("- 1\n")
    Path("recorded.yaml").write_text("kind: recorded\npath: rows.csv\nlabel: y\n")
    refused = everlearn("bench", *args, code=2)
    (line,) = refused.err.strip().splitlines()
    assert line.startswith("everlearn: ")
    assert message in line
    assert refused.out == ""
    assert sorted(path.name for path in Path().iterdir()) == ["list.yaml", "recorded.yaml"]


@pytest.mark.parametrize("args", [["--seeds", 0], ["--workers", 0], ["--every", 0]])
def test_bench_refuses_numbers_out_of_range(everlearn: Everlearn, args: list[Any]) -> None:
    refused = everlearn("bench", "split-digits", "--learner", "replay", *args, code=2)
    assert str(args[0]) in refused.err
    assert not list(Path().iterdir())


def test_bench_refuses_a_locked_folder(everlearn: Everlearn, going: Callable[..., Going]) -> None:
    Path("slow.py").write_text(SLOW)
    args = ("bench", "split-digits", "--learner", "slow:Slow", "--seeds", 4, "--out", "out")
    one = going(*args)
    one.until(lambda: moments(Path("out")))
    line = everlearn(*args, code=2).line
    assert "held by another" in line
    assert "--out" in line


def test_run_shows_two_bars_on_a_terminal_only() -> None:
    def shown(terminal: bool) -> str:
        file = StringIO()
        console = Console(file=file, force_terminal=terminal, width=100)
        bench = Bench(["split-digits"], ["finetune"], 2, Path(f"out-{terminal}"))
        bench.run(console, messages.append)
        return file.getvalue()

    messages: list[str] = []

    assert shown(False) == ""
    bars = shown(True)
    assert "cells" in bars
    assert "split-digits finetune seed 1" in bars
    assert messages == []


def result(learner: str, seed: int, steps: int = 0, size: int = 0, **metrics: float) -> Any:
    counts = {
        "gradient_steps": steps,
        "buffer_bytes": size,
        "state_bytes": 1000 + size,
        "cpu_seconds": 1.5,
    }
    return {"scenario": "s", "learner": learner, "seed": seed, "metrics": metrics, **counts}


def test_spread_is_mean_and_deviation_over_seeds() -> None:
    assert spread([0.58, 0.6, 0.62]) == "60.0±2.0"  # of a sample: 1 / (n - 1)
    assert spread([0.4, 0.6, 0.8]) == "60.0±20"
    assert spread([0.5, 0.5 + 0.0998 * 2**0.5]) == "57.1±10"  # 9.98, and not 10.0
    assert spread([0.1234]) == "12.3"
    assert spread([float("nan"), 0.5]) == "50.0"
    assert spread([float("nan")]) == ""


def printed(cells: list[Any], width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        for table in tables(cells):
            console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_tables_fit_a_terminal() -> None:
    keys = ("acc", "forgetting", "bwt", "fwt", "aaa", "wc_acc", "learning_accuracy")
    keys += ("test_log_loss",)
    names = ["replay", "finetune", "twelve-chars", "no-change"]
    cells = [
        result(name, seed, **{key: (-1 if key == "bwt" else 1) * value for key in keys})
        for name in names
        for seed, value in enumerate((0.999, 0.345))
    ]
    lines = printed(cells)
    assert lines[0] == "s, in %, 2 seeds"
    header = "learner ACC forgetting FWT AAA WC-ACC log-loss state CPU s"
    assert lines[1].split() == header.split()
    assert len(lines) == 3 + len(names)
    for name, line in zip(names, lines[3:], strict=True):
        assert line.split() == [name, *["67.2±46"] * 5, "0.672", "1.0", "kB", "1.5"]
    assert max(map(len, lines)) <= 80


def test_tables_fold_a_long_name_and_cut_no_number() -> None:
    keys = ("acc", "forgetting", "fwt", "aaa", "wc_acc")
    name = "replay:buffer.admission=class-balanced"
    lines = printed([result(name, 0, **dict.fromkeys(keys, 0.5))])
    assert "".join(line.split()[0] for line in lines[3:]) == name
    assert lines[3].split()[1:] == [*["50.0"] * 5, "1.0", "kB", "1.5"]


def test_tables_leave_out_an_empty_column() -> None:
    header = printed([result("a", 0, acc=0.5, fwt=float("nan"))])[1]
    assert header.split() == ["learner", "ACC", "log-loss", "state", "CPU", "s"]


def test_tables_state_the_largest_state_and_mean_time() -> None:
    cells = [result("a", seed, size=2000 * seed, test_log_loss=seed / 4) for seed in (0, 1)]
    cells[1]["cpu_seconds"] = 2.5
    assert printed(cells)[3].split() == ["a", "0.125", "3.0", "kB", "2.0"]


def test_budgets_list_equal_values_once() -> None:
    cells = [
        result("replay", 0, steps=1200, size=138_000),
        result("replay", 1, steps=1210, size=138_000),
        result("finetune", 0, steps=1210),
        result("no-change", 0),
    ]
    assert budgets(cells) == ["s: gradient steps 1,210 (replay, finetune); buffer 0.14 MB (replay)"]
    cells.append(result("der", 0, steps=2420, size=2760))
    assert budgets(cells) == [
        "s: gradient steps 1,210 (replay), 1,210 (finetune), 2,420 (der); "
        "buffer 0.14 MB (replay), 2.8 kB (der)"
    ]
    assert budgets([result("no-change", 0)]) == ["s: gradient steps none; buffer none"]


def test_bench_runs_from_python() -> None:
    bench = Bench(["split-digits"], ["no-change"], 1, Path("out"), budget=Budget(every=500))
    (result,) = bench.run(Console(quiet=True), print)
    # Batches of 10: the first that ends at 500 or later in a phase ends at 269 + 24 * 10.
    assert result["evaluations"]["events"] == [269, 509, 538, 809, 1008 + 1, 1078, 1343]
    with pytest.raises(JobError):
        Bench(["split-digits"], ["no-chance"], 1, Path("out"))
