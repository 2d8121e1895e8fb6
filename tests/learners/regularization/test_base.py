from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.mark.parametrize("kind", ["ewc", "lwf"])
def test_run_on_a_stream_without_segments_is_refused(kind: str, everlearn: Any) -> None:
    """Before the start; with ``every``, or the column of the task, it runs."""
    rows = "".join(f"{i % 7},{i // 100},{'ab'[i % 2]}\n" for i in range(300))
    Path("a.csv").write_text("x,part,y\n" + rows)
    stream = {"kind": "recorded", "path": "a.csv", "label": "y"}
    for more, learner, code in (
        ({}, {}, 2),
        ({"segment": "part"}, {}, 0),
        ({}, {"every": 100}, 0),
    ):
        job = {"name": "tasks", "stream": stream | more, "learner": {"kind": kind} | learner}
        Path("job.yaml").write_text(yaml.safe_dump(job))
        done = everlearn("run", "job.yaml", "--run-dir", f"run{code}{len(more)}", code=code)
        if code:
            assert f"learner {kind!r} needs to know where tasks end" in done.line
            assert "or take a learner that needs no boundaries, as replay" in done.line
            assert not Path("run20/checkpoints").exists()
