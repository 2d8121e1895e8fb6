"""The encoders of a server: loaded once, shared by its models, and those of the run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.sections import ServeConfig
from pipeline.serving.checkpoint_server import CheckpointServer, ServeError
from tests.support.http import served

ENCODER = """
from learners.pretrained.encoders.random_features import RandomFeatureEncoder
loads = []
class Mine(RandomFeatureEncoder):
    def __init__(self, config, feature, seed):
        super().__init__(config, feature, seed)
        self.fingerprint = "{}"
        loads.append(seed)
"""


@pytest.fixture
def folder(tmp_path: Path, everlearn: Callable[..., Any]) -> Path:
    """A run of digits through an encoder of a user's, stopped after 200 events."""
    (tmp_path / "mine.py").write_text(ENCODER.format("before"))
    stream = {"kind": "scenario", "name": "split-digits", "encoder": "mine:Mine"}
    job = {"stream": stream, "learner": "replay", "checkpoint": {"every_events": 100}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    everlearn("run", "job.yaml", "--run-dir", "run", "--max-events", 200)
    return tmp_path / "run"


def test_models_of_later_checkpoints_share_the_encoder(
    folder: Path, everlearn: Callable[..., Any]
) -> None:
    server = CheckpointServer(folder, ServeConfig(), pytest.fail)
    loads = sys.modules["mine"].loads
    with served(server) as client:
        assert server.reload()
        once = len(loads)
        first = client.answer([{"pixels": [1.0] * 64}])
        everlearn("run", "job.yaml", "--run-dir", folder, "--resume", "--max-events", 300)
        run = len(loads)
        assert server.reload()
        assert client.answer([{"pixels": [1.0] * 64}])["model_version"] > first["model_version"]
    assert once > 0
    assert len(loads) == run


def test_a_server_with_another_encoder_says_which_it_needs(folder: Path) -> None:
    del sys.modules["mine"]
    (folder.parent / "mine.py").write_text(ENCODER.format("now, and longer"))
    server = CheckpointServer(folder, ServeConfig(), pytest.fail)
    with pytest.raises(ServeError, match="has the fingerprint now, and longer here, and the model"):
        server.reload()
