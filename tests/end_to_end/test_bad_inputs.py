"""Bad input gets one clear line that names place and remedy, and nothing learned is lost."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
Everlearn = Callable[..., Any]
WriteJob = Callable[..., Path]
HEAD = "a,b,label\n"


def rows(n: int = 200, start: int = 0) -> str:
    """CSV rows of two numbers and a label that hangs on the first."""
    lines = (f"{i % 7},{i * 0.5},{'yes' if i % 7 > 3 else 'no'}\n" for i in range(start, start + n))
    return "".join(lines)


def csv(text: str) -> dict[str, Any]:
    """Stream settings for a CSV file of this text."""
    Path("data.csv").write_text(text)
    return {"kind": "recorded", "path": "data.csv", "label": "label", "label_delay": {"events": 0}}


def parquet(**columns: Any) -> dict[str, Any]:
    pq.write_table(pa.table(columns), "data.parquet")
    return {"kind": "recorded", "path": "data.parquet", "label": "label"}


# What is refused before anything starts: the job's changes, and what its line must say.
REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], list[str]]] = {
    "missing file": (
        lambda: {"stream": {"kind": "recorded", "path": "nowhere.parquet", "label": "y"}},
        ["nowhere.parquet", "looked"],
    ),
    "empty file": (lambda: {"stream": csv("")}, ["data.csv", "empty"]),
    "header only": (lambda: {"stream": csv(HEAD)}, ["data.csv"]),
    "missing label column": (
        lambda: {"stream": csv("a,b,lable\n1,2,x\n")},
        ["label", "'lable'"],
    ),
    "corrupt parquet": (
        lambda: (
            [Path("x.parquet").write_bytes(b"PAR1 nonsense")]
            and {"stream": {"kind": "recorded", "path": "x.parquet", "label": "y"}}
        ),
        ["x.parquet"],
    ),
    "unknown key in the job": (
        lambda: {"checkpoint": {"every_event": 5}},
        ["job.yaml: checkpoint", "'every_event'", "did you mean 'every_events'"],
    ),
    "unknown key of the learner": (
        lambda: {"learner": {"optimizer": {"kind": "adam", "learning_rate": 1}}},
        ["learner.optimizer", "'learning_rate'", "There are: kind, lr"],
    ),
    "unknown key of the stream": (
        lambda: {"stream": csv(HEAD + rows()) | {"labell": "x"}},
        ["stream", "'labell'", "did you mean"],
    ),
    "unknown key at the top": (lambda: {"sed": 3}, ["'sed'", "did you mean 'seed'"]),
    "wrong type": (
        lambda: {"learner": {"optimizer": {"kind": "adam", "lr": "fast"}}},
        ["learner.optimizer.lr", "got 'fast'", "number"],
    ),
    "out of range": (
        lambda: {"learner": {"steps": 0}},
        ["learner.steps", "got 0", "above 0"],
    ),
    "unknown learner": (
        lambda: {"learner": {"kind": "replya"}},
        ["learner.kind", "'replya'", "did you mean 'replay'", "finetune", "no-change"],
    ),
    "unknown stream": (
        lambda: {"stream": {"kind": "recorder"}},
        ["stream.kind", "did you mean 'recorded'"],
    ),
    "unknown model": (
        lambda: {"learner": {"model": {"kind": "transformer"}}},
        ["learner.model", "transformer", "mlp"],
    ),
    "unknown buffer rule": (
        lambda: {"learner": {"buffer": {"admission": "reservior"}}},
        ["learner.buffer.admission", "did you mean 'reservoir'"],
    ),
    "a learner that is not there": (
        lambda: {"learner": {"kind": "no_such_module:Mine"}},
        ["learner.kind", "no_such_module", "folder of the job file"],
    ),
    "conv net on a table": (
        lambda: {"learner": {"model": {"kind": "conv"}}},
        ["learner.model", "images"],
    ),
    "classifier for a number": (
        lambda: {
            "stream": csv(HEAD + rows()) | {"label": "b"},
            "learner": {"kind": "river", "model": "tree.HoeffdingTreeClassifier"},
        },
        ["learner.model", "regression"],
    ),
    "no such device": (lambda: {"device": "quantum"}, ["device", "quantum"]),
    "labels later than events wait": (
        lambda: {"stream": {"label_timeout_events": 40}},
        ["stream.label_timeout_events", "48"],
    ),
    "no stream": (lambda: {"stream": None}, ["stream", "got nothing"]),
    "two label delays": (
        lambda: {"stream": {"label_delay": {"events": 1, "seconds": 2}}},
        ["stream.label_delay", "one of events, seconds and column"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_starts(
    name: str, everlearn: Everlearn, write_job: WriteJob, tmp_path: Path
) -> None:
    changes, said = REFUSED[name]
    done = everlearn("run", write_job(**changes()), "--run-dir", "run", code=2)
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    for words in said:
        assert words in lines[0]
    assert not (tmp_path / "run" / "checkpoints").exists() or not list(
        (tmp_path / "run" / "checkpoints").iterdir()
    )


# What sets an event aside: the stream, which (offset, words of the reason) are dead.
DEAD: dict[str, tuple[Callable[[], dict[str, Any]], list[tuple[int, list[str]]]]] = {
    "a string in a numeric column": (
        lambda: csv(HEAD + rows(100) + "many,3,yes\n" + rows(50)),
        [(100, ["'a'", "many"])],
    ),
    "infinite features, beside missing ones": (
        lambda: parquet(
            a=[0.0, np.nan, 2.0, np.inf, 4.0, -np.inf, None, *range(50)],
            label=["x"] * 57,
        ),
        [(3, ["'a'", "inf"]), (5, ["'a'", "-inf"])],
    ),
    "wrong vector length": (
        lambda: parquet(v=[[1.0, 2.0]] * 40 + [[1.0, 2.0, 3.0]] + [[1.0, 2.0]], label=[0] * 42),
        [(40, ["'v'", "3", "2"])],
    ),
    "a duplicate id within the window": (
        lambda: (
            parquet(id=[*range(60), 7, *range(61, 100)], a=np.arange(100.0), label=["x", "y"] * 50)
            | {"id": "id"}
        ),
        [(60, ["duplicate id 7"])],
    ),
    "time going backwards": (
        lambda: (
            parquet(t=[*range(50), 10, *range(51, 80)], a=np.arange(80.0), label=["x", "y"] * 40)
            | {"time": "t", "lateness": 5}
        ),
        [(50, ["time goes back", "39 s"])],
    ),
    "a class that is not among the stated ones": (
        lambda: (
            csv(HEAD + rows(60) + "1,2,maybe\n" + rows(10))
            | {"label": {"column": "label", "classes": ["no", "yes"]}}
        ),
        [(60, ["'label'", "maybe"])],
    ),
    "a row with a field too many": (
        lambda: csv(HEAD + rows(60) + "1,2,yes,what\n" + rows(10)),
        [(60, ["4"])],
    ),
}


@pytest.mark.parametrize("name", DEAD)
def test_set_aside_with_position_and_reason(
    name: str,
    everlearn: Everlearn,
    write_job: WriteJob,
    summary: Callable[[Path], dict[str, Any]],
) -> None:
    stream, expected = DEAD[name]
    job = write_job(
        stream=stream() | {"label_delay": {"events": 0}, "standardise": None},
        learner={"kind": "replay", "scale": True},
        checkpoint={"every_events": 50},
    )
    done = everlearn("run", job, "--run-dir", "run")
    found = [json.loads(line) for line in Path("run/dead.jsonl").read_text().splitlines()]
    assert [line["offset"] for line in found] == [offset for offset, _ in expected]
    for line, (_, words) in zip(found, expected, strict=True):
        assert line["partition"] == 0
        for word in words:
            assert word in line["reason"]
    after = summary(Path("run"))
    assert after["fates"]["dead"] == len(expected)
    assert after["fates"]["learned"] == after["events"] - len(expected) > 0
    assert "dead.jsonl" in done.err


def test_a_class_never_seen_before_is_learned_from_then_on(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    text = HEAD + rows(2000) + "".join(f"50,{i % 9},third\n" for i in range(1000))
    stream = csv(text) | {"batch_size": 16, "standardise": None}
    job = write_job(stream=stream, learner={"scale": True}, evaluate={"window": 500})
    everlearn("run", job, "--run-dir", "run")
    after = summary(Path("run"))
    assert after["fates"]["learned"] == 3000
    assert after["metrics"]["online/accuracy_window"] > 0.9


def test_all_labels_missing(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    stream = parquet(a=np.arange(100.0), label=pa.array([None] * 100, pa.string()))
    job = write_job(stream=stream | {"standardise": None})
    done = everlearn("run", job, "--run-dir", "run")
    after = summary(Path("run"))
    assert after["fates"]["unlabelled"] == 100
    assert "online/accuracy" not in after["metrics"]
    assert "no event has met its label" in done.err


@pytest.mark.parametrize("folder", ["/proc/nowhere/run", "file/run"])
def test_a_run_folder_that_cannot_be_written(
    folder: str, everlearn: Everlearn, write_job: WriteJob
) -> None:
    Path("file").write_text("not a folder")
    done = everlearn("run", write_job(), "--run-dir", folder, code=2)
    assert len(done.err.strip().splitlines()) == 1
    assert folder in done.line
    assert "--run-dir" in done.line


def test_a_run_folder_held_by_another_run(everlearn: Everlearn, write_job: WriteJob) -> None:
    Path("run").mkdir()
    with Path("run/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = everlearn("run", write_job(), "--run-dir", "run", code=2)
    assert "held by another run" in done.line


def test_a_run_is_not_overwritten_by_mistake(everlearn: Everlearn, write_job: WriteJob) -> None:
    everlearn("run", write_job(), "--run-dir", "run", "--max-events", 100)
    done = everlearn("run", write_job(), "--run-dir", "run", code=2)
    assert "--resume" in done.line


def test_a_changed_job_is_refused_with_the_differing_keys(
    everlearn: Everlearn, write_job: WriteJob
) -> None:
    everlearn("run", write_job(), "--run-dir", "run", "--max-events", 100)
    changes = ("--set", "learner.optimizer.lr=0.5", "--set", "seed=8")
    done = everlearn("run", write_job(), "--run-dir", "run", "--resume", *changes, code=2)
    assert "learner.optimizer.lr: 0.001 in the checkpoint, 0.5 in the job" in done.err
    assert "seed: 7 in the checkpoint, 8 in the job" in done.err
    everlearn(  # where and how often checkpoints are written does not shape the state
        "run", write_job(), "--run-dir", "run", "--resume", "--max-events", 200,
        "--set", "checkpoint.every_events=50", "--set", "name=renamed",
    )  # fmt: skip


@pytest.mark.parametrize("file", ["arrays.safetensors", "values.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["truncated", "flipped", "gone"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(
    file: str,
    harm: str,
    everlearn: Everlearn,
    write_job: WriteJob,
    summary: Callable[[Path], dict[str, Any]],
) -> None:
    job = write_job(checkpoint={"every_events": 320})
    everlearn("run", job, "--run-dir", "whole", "--max-events", 1280)
    everlearn("run", job, "--run-dir", "run", "--max-events", 960)
    broken = Path("run/checkpoints/000000000000960") / file
    data = bytearray(broken.read_bytes())
    if harm == "gone":
        broken.unlink()
    elif harm == "truncated":
        broken.write_bytes(data[:-7])
    else:
        data[len(data) // 2] ^= 1
        broken.write_bytes(data)
    done = everlearn("run", job, "--run-dir", "run", "--resume", "--max-events", 1280)
    if (file, harm) == ("manifest.json", "gone"):
        assert f"{broken.parent} is no checkpoint: there is no {file} in it" in done.err
    else:
        assert f"broken checkpoint file {broken}" in done.err
    assert summary(Path("run"))["resumed_from"].endswith("640")
    assert summary(Path("run"))["state_digest"] == summary(Path("whole"))["state_digest"]


def test_no_whole_checkpoint_left(everlearn: Everlearn, write_job: WriteJob) -> None:
    everlearn("run", write_job(), "--run-dir", "run", "--max-events", 100)
    for manifest in Path("run/checkpoints").glob("*/manifest.json"):
        manifest.write_text("{")
    done = everlearn("run", write_job(), "--run-dir", "run", "--resume", code=2)
    assert "none of the 1 checkpoints" in done.line


def test_resume_before_a_checkpoint_starts_at_the_beginning(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    job = write_job()
    everlearn("run", job, "--run-dir", "run", "--max-events", 64)
    shutil.rmtree("run/checkpoints")  # as if it had been killed before the first
    done = everlearn("run", job, "--run-dir", "run", "--resume", "--max-events", 64)
    assert "starting at the beginning" in done.err
    assert summary(Path("run"))["events"] == 64


def test_a_finished_run_stays_finished(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    job = write_job(stream=csv(HEAD + rows(100)))
    everlearn("run", job, "--run-dir", "run")
    first = summary(Path("run"))
    everlearn("run", job, "--run-dir", "run", "--resume")
    assert summary(Path("run")) == first
    for left in ('{"finished": false, "events": 3}', "{", None):  # killed before the last summary
        Path("run/summary.json").unlink()
        if left is not None:
            Path("run/summary.json").write_text(left)
        everlearn("run", job, "--run-dir", "run", "--resume")
        again = summary(Path("run"))
        assert again["finished"]
        assert again["state_digest"] == first["state_digest"]
        assert again["fates"] == first["fates"]


def test_warm_from_takes_over_what_the_learner_knows(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    job = write_job()
    everlearn("run", job, "--run-dir", "old")
    checkpoint = Path("old/checkpoints/000000000045312")
    for folder, warm in (("cold", ()), ("warm", ("--warm-from", checkpoint))):
        everlearn("run", job, "--run-dir", folder, "--max-events", 960, *warm)
    cold, warm = (summary(Path(f))["metrics"]["online/accuracy"] for f in ("cold", "warm"))
    assert warm > cold + 0.02
    fewer = ("--warm-from", checkpoint, "--set", "stream.features=[period, transfer]")
    done = everlearn("run", job, "--run-dir", "narrow", *fewer, code=2)
    assert "column nswprice" in done.err
    more = ("--warm-from", checkpoint, "--set", "learner.optimizer.lr=0.5")
    done = everlearn("run", job, "--run-dir", "other", *more, code=2)
    assert "learner.optimizer.lr" in done.err
    done = everlearn("run", job, "--run-dir", "third", "--warm-from", "nowhere", code=2)
    assert "nowhere" in done.line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "not YAML"),
        ("just words", "expected a mapping"),
        ("name: a\nname: b\n", "duplicate key 'name'"),
    ],
)
def test_a_job_file_that_is_none(text: str, words: str, everlearn: Everlearn) -> None:
    Path("bad.yaml").write_text(text)
    done = everlearn("run", "bad.yaml", code=2)
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_no_job_file(everlearn: Everlearn) -> None:
    assert "nowhere.yaml: No such file" in everlearn("run", "nowhere.yaml", code=2).line


@pytest.mark.parametrize("override", ["learner.steps", "name.first=3"])
def test_a_bad_override(override: str, everlearn: Everlearn, write_job: WriteJob) -> None:
    done = everlearn("run", write_job(), "--set", override, code=2)
    assert f"--set {override}" in done.line


def test_a_users_learner_that_fails_leaves_the_state_and_a_log(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    Path("mine_that_fails.py").write_text(
        "from learners.baselines.prior import Prior\n"
        "class Mine(Prior):\n"
        "    def learn(self, batch):\n"
        "        if batch.ids[0] == 640:\n"
        "            raise RuntimeError('out of luck')\n"
        "        super().learn(batch)\n"
    )
    job = write_job(checkpoint={"every_events": 320})
    mine = ("--set", "learner={kind: 'mine_that_fails:Mine'}", "--run-dir", "run")
    done = everlearn("run", job, *mine, code=1)
    assert "RuntimeError: out of luck" in done.line
    assert "--resume" in done.line
    assert "out of luck" in Path("run/error.log").read_text()
    assert (Path("run/checkpoints") / "000000000000640").is_dir()


def test_training_that_diverges_is_told_and_its_state_not_kept(
    everlearn: Everlearn, write_job: WriteJob
) -> None:
    """Learning rates are sane until the third checkpoint, then a user's learner loses its head."""
    Path("mine_that_diverges.py").write_text(
        "import torch\n"
        "from learners.baselines.finetune import Finetune\n"
        "class Mine(Finetune):\n"
        "    def learn(self, batch):\n"
        "        super().learn(batch)\n"
        "        if self.version == 40:\n"
        "            with torch.no_grad():\n"
        "                self.net.head.weight *= float('inf')\n"
    )
    job = write_job(checkpoint={"every_events": 320})
    mine = "learner={kind: 'mine_that_diverges:Mine'}"
    done = everlearn("run", job, "--run-dir", "run", "--set", mine, code=1)
    assert "diverged" in done.line
    assert "learner.optimizer.lr" in done.line
    assert "The state after 1280 events is kept" in done.line


def cli(*args: object, limit: int | None = None, **kwargs: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own, the files it writes limited to so many bytes."""

    def small_files() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    environment = {**os.environ, **kwargs.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "everlearn", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": f"{environment.get('PYTHONPATH', '')}:{ROOT}"},
        preexec_fn=small_files,
        **kwargs,
    )


def test_no_room_for_a_checkpoint(
    write_job: WriteJob, summary: Callable[[Path], dict[str, Any]], everlearn: Everlearn
) -> None:
    """Files may grow to a limit (a real refusal of the kernel, as a full disk gives) under which
    early checkpoints fit and later ones, with a fuller buffer, do not."""
    job = write_job(checkpoint={"every_events": 320, "keep": 100})
    everlearn("run", job, "--run-dir", "whole", "--max-events", 3200)
    sizes = [p.stat().st_size for p in sorted(Path("whole").glob("checkpoints/*/arrays*"))]
    limit = (sizes[2] + sizes[-1]) // 2
    process = cli("run", job, "--run-dir", "run", "--max-events", 3200, limit=limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "checkpoint not written" in err
    assert "File too large" in err
    assert "Traceback" not in err
    kept = sorted(p.name for p in Path("run/checkpoints").iterdir())
    assert kept
    assert f"The state after {int(kept[-1])} events is kept" in err
    everlearn("run", job, "--run-dir", "run", "--resume", "--max-events", 3200)
    assert summary(Path("run"))["state_digest"] == summary(Path("whole"))["state_digest"]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)]
)
def test_ctrl_c_writes_a_checkpoint_and_leaves(
    number: signal.Signals,
    write_job: WriteJob,
    everlearn: Everlearn,
    summary: Callable[[Path], dict[str, Any]],
) -> None:
    job = write_job(learner={"steps": 8}, checkpoint={"every_events": 2000})
    to_the_end = ("--max-events", 16_000)
    process = cli("run", job, "--run-dir", "run", *to_the_end)
    while process.poll() is None and not list(Path("run").glob("checkpoints/0*")):
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    stopped = summary(Path("run"))
    assert not stopped["finished"]
    assert stopped["awaiting"] == 48
    assert sum(stopped["fates"].values()) + 48 == stopped["events"]
    assert list(Path("run").glob(f"checkpoints/*{stopped['events']}"))
    assert stopped["events"] < 16_000
    everlearn("run", job, "--run-dir", "run", "--resume", *to_the_end)
    everlearn("run", job, "--run-dir", "whole", *to_the_end)
    assert summary(Path("run"))["state_digest"] == summary(Path("whole"))["state_digest"]


@pytest.mark.parametrize("name", ["streams", "buffers", "learners", "pipeline"])
def test_a_folder_that_shadows_one_of_ours_is_named(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / name
    mine.mkdir(parents=True)
    (mine / "__init__.py").write_text("")
    process = cli("doctor", env={"PYTHONPATH": str(mine.parent)})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"package {name!r} is found at {mine}" in err
    assert len(err.strip().splitlines()) == 1


# What a user's learner may get wrong, and what its line must say.
WRONG_LEARNERS: dict[str, tuple[str, list[str]]] = {
    "a value too many": (
        "return replace(said, value=np.append(said.value, 0))",
        ["value (33,)", "for 32 events"],
    ),
    "probabilities of another shape": (
        "return replace(said, proba=np.zeros((len(batch) + 1, 2)))",
        ["proba (33, 2)", "for 32 events"],
    ),
    "codes of another type": (
        "return replace(said, value=said.value.astype(np.int32))",
        ["int32", "int64 is expected"],
    ),
    "a class that is none": ("return replace(said, value=said.value - 7)", ["class code -"]),
    "a class far away": ("return replace(said, value=said.value + 10**9)", ["class code 10000"]),
    "no numbers": (
        "return replace(said, proba=np.full((len(batch), 2), np.nan))",
        ["predicts the probability nan"],
    ),
    "nothing": ("return None", ["AttributeError", "error.log"]),
    "it writes to its batch": ("batch.x[:] = 0; return said", ["read-only", "error.log"]),
    "it leaves": ("raise SystemExit(0)", ["SystemExit", "error.log"]),
}


@pytest.mark.parametrize("name", WRONG_LEARNERS)
def test_a_learner_that_does_wrong_is_told(
    name: str, everlearn: Everlearn, write_job: WriteJob
) -> None:
    body, said = WRONG_LEARNERS[name]
    module = f"wrong_{abs(hash(name))}"
    Path(f"{module}.py").write_text(
        "from dataclasses import replace\nimport numpy as np\n"
        "from learners.baselines.prior import Prior\n"
        "class Wrong(Prior):\n"
        "    def predict(self, batch):\n"
        "        said = super().predict(batch)\n"
        "        if len(batch) and batch.ids[0] < 320: return said\n"
        f"        {body}\n"
        "    per_event = False\n"
    )
    wrong = f"learner={{kind: '{module}:Wrong'}}"
    job = write_job(checkpoint={"every_events": 160}, stream={"standardise": None})
    done = everlearn("run", job, "--run-dir", "run", "--set", wrong, code=1)
    for words in said:
        assert words in done.line, done.line
    assert "events is kept" in done.line


def test_a_state_that_cannot_be_kept_is_told_at_once(
    everlearn: Everlearn, write_job: WriteJob
) -> None:
    Path("odd_state.py").write_text(
        "import numpy as np\nfrom learners.baselines.prior import Prior\n"
        "class Odd(Prior):\n"
        "    def state(self):\n"
        "        return {**super().state(), 'names': np.array(['a'])}\n"
    )
    odd = "learner={kind: 'odd_state:Odd'}"
    job = write_job(checkpoint={"every_events": 160})
    done = everlearn("run", job, "--run-dir", "run", "--set", odd, code=1)
    assert "'learner/names' has dtype <U1" in done.line


def test_the_job_file_itself_is_not_overwritten(everlearn: Everlearn, write_job: WriteJob) -> None:
    job = write_job()
    before = job.read_text()
    done = everlearn("run", job, "--run-dir", ".", code=2)
    assert "another --run-dir" in done.line
    assert job.read_text() == before


def test_a_newer_broken_checkpoint_does_not_outlive_a_whole_one(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    job = write_job(checkpoint={"every_events": 320})
    everlearn("run", job, "--run-dir", "run", "--max-events", 960)
    for name in ("640", "960"):
        (arrays,) = Path("run").glob(f"checkpoints/*{name}/arrays.safetensors")
        arrays.write_bytes(b"")
    keep = ("--set", "checkpoint.keep=1")
    everlearn("run", job, "--run-dir", "run", "--resume", "--max-events", 640, *keep)
    done = everlearn("run", job, "--run-dir", "run", "--resume", "--max-events", 672, *keep)
    assert "broken" not in done.err
    assert summary(Path("run"))["resumed_from"].endswith("640")


def test_dead_letters_that_were_deleted_are_not_made_up(
    everlearn: Everlearn, write_job: WriteJob
) -> None:
    job = write_job(stream=csv(HEAD + "junk,1,yes\n" + rows(300)) | {"standardise": None})
    job.write_text(job.read_text().replace("path: data.csv", "path: data.csv\n  features: [a, b]"))
    everlearn("run", job, "--run-dir", "run", "--max-events", 64)
    assert "junk" in Path("run/dead.jsonl").read_text()
    Path("run/dead.jsonl").unlink()
    done = everlearn("run", job, "--run-dir", "run", "--resume")
    assert "shorter than it was" in done.err
    assert Path("run/dead.jsonl").read_bytes() == b""


def test_a_stream_that_is_not_what_it_was(everlearn: Everlearn, write_job: WriteJob) -> None:
    plain = {"standardise": None}
    job = write_job(stream=csv(HEAD + rows(400)) | plain)
    everlearn("run", job, "--run-dir", "run", "--max-events", 320)
    Path("data.csv").write_text(HEAD + rows(100))
    done = everlearn("run", job, "--run-dir", "run", "--resume", code=2)
    assert "data.csv, of which this run has read 320 rows, is shorter now" in done.line
    Path("data.csv").write_text("a,b,c,label\n1,2,3,yes\n2,3,4,no\n")
    done = everlearn("run", job, "--run-dir", "run", "--resume", code=2)
    assert "column c: not set in the checkpoint, ['numeric'] in the job" in done.err


def test_no_pickle_of_another_run_is_read(everlearn: Everlearn, write_job: WriteJob) -> None:
    river = "learner={kind: river, model: naive_bayes.GaussianNB}"
    job = write_job()
    everlearn("run", job, "--run-dir", "old", "--max-events", 320, "--set", river)
    (checkpoint,) = Path("old/checkpoints").iterdir()
    warm = ("--warm-from", checkpoint, "--set", river)
    done = everlearn("run", job, "--run-dir", "new", *warm, code=2)
    assert "pickle" in done.line


def test_a_lock_that_is_a_link_is_not_followed(everlearn: Everlearn, write_job: WriteJob) -> None:
    Path("precious").write_text("do not lose me")
    Path("run").mkdir()
    Path("run/.lock").symlink_to(Path("precious").resolve())
    everlearn("run", write_job(), "--run-dir", "run", code=2)
    assert Path("precious").read_text() == "do not lose me"


@pytest.mark.parametrize("name", ["dead.jsonl", "job.yaml"])
def test_a_folder_where_a_file_should_be(
    name: str, everlearn: Everlearn, write_job: WriteJob
) -> None:
    (Path("run") / name).mkdir(parents=True)
    done = everlearn("run", write_job(), "--run-dir", "run", code=2)
    assert name in done.line
    assert len(done.err.strip().splitlines()) == 1


def test_the_digest_hangs_on_no_checkpoint_and_no_clock(
    everlearn: Everlearn, write_job: WriteJob, summary: Callable[[Path], dict[str, Any]]
) -> None:
    """Probabilities grow from two classes to three in the middle of what is scored at once."""
    lines = [f"{i % 7},{i % 5},{'abc'[i % 3] if i > 100 else 'ab'[i % 2]}\n" for i in range(1200)]
    job = write_job(
        stream=csv(HEAD + "".join(lines)) | {"standardise": None}, learner={"kind": "prior"}
    )
    digests = set()
    for every in (5000, 32, 96):
        folder = f"run{every}"
        everlearn("run", job, "--run-dir", folder, "--set", f"checkpoint.every_events={every}")
        digests.add(summary(Path(folder))["state_digest"])
    assert len(digests) == 1
