"""What a learner publishes of itself: statistics and warnings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from learners.baselines.prior import Prior
from pipeline.config import job as jobs
from pipeline.evaluation.metric_names import unknown_metric
from pipeline.runners.default_callbacks import callbacks_for
from pipeline.training.callback import Callback
from pipeline.training.run import Run

WriteJob = Callable[..., Path]

CODE = """
from learners.baselines.prior import Prior

class Counting(Prior):
    kind = "counting:Counting"

    def metrics(self):
        return {"learned": float(self.version)}

    def current_warnings(self):
        return ("it has learned",) if self.version else ()
"""


def test_statistics_and_warnings_of_a_learner_reach_a_run(write_job: WriteJob) -> None:
    Path("counting.py").write_text(CODE)
    loaded = jobs.load(write_job(learner={"kind": "counting:Counting"}))
    said: list[str] = []
    callbacks = callbacks_for(loaded.job, Callback(), Callback(), None, None)
    summary = Run(loaded, Path("run"), said.append).run(callbacks=callbacks, max_events=500)
    assert summary["metrics"]["learner/learned"] == summary["model_version"] > 1
    assert [line for line in said if "it has learned" in line] == ["warning: it has learned"]
    assert unknown_metric("learner/learned") is None
    assert not Prior.metrics(Prior.__new__(Prior))
