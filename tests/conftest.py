"""What several tests share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import is_
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from hypothesis import settings
from typer.testing import CliRunner

from tests.support import brokers as brokers_
from tests.support import fuzz, mlflow
from tests.support.kafka44 import Kafka44, apache_kafka_44
from tests.support.ray_processes import Place

torch.set_num_threads(1)
# In the background of a shell Ctrl-C is ignored, and so it would be by all that is started here.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.load_profile(fuzz.SAME)

ROOT = Path(__file__).parents[1]


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The last line on standard error."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


@pytest.fixture
def everlearn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs the command line in this process, and expects the exit status ``code``."""
    from pipeline.cli.app import app

    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: object, code: int = 0) -> Outcome:
        result = CliRunner().invoke(app, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        outcome = Outcome(result.exit_code, result.stdout, result.stderr)
        assert outcome.code == code, outcome
        assert "Traceback" not in outcome.err + outcome.out
        return outcome

    return run


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small, fast job file: the Elec2 job with a small net, changed as asked."""

    def write(name: str = "job.yaml", /, **changes: Any) -> Path:
        job = yaml.safe_load((ROOT / "experiments" / "jobs" / "elec2.yaml").read_text())
        job["learner"] |= {"model": {"kind": "mlp", "hidden": [16]}, "steps": 1}
        for key, value in changes.items():
            if value is None:
                job.pop(key, None)
            elif _same_kind(value, job.get(key)):
                job[key] = {k: v for k, v in (job[key] | value).items() if v is not None}
            else:
                job[key] = value
        file = tmp_path / name
        file.write_text(yaml.safe_dump(job))
        return file

    return write


def _same_kind(value: Any, old: Any) -> bool:
    """Whether a part is to be changed here and there, and not replaced."""
    both = isinstance(value, dict) and isinstance(old, dict)
    return both and value.get("kind", old.get("kind")) == old.get("kind")


@pytest.fixture(scope="session")
def brokers() -> Any:
    """The module that starts brokers."""
    return brokers_


@pytest.fixture(scope="session")
def broker(brokers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``HOST:PORT`` of a real broker for all tests; each takes topics of its own.

    It tells where a topic ends as if its last batch held one message: a topic that is to be read to
    its end is to end with a batch of one.
    """
    with brokers.tansu(tmp_path_factory.mktemp("broker")) as servers:
        yield servers


@pytest.fixture(scope="session")
def kafka44() -> Iterator[Kafka44]:
    """A current Apache Kafka for all tests of this process; each takes topics of its own.

    A test that needs it is skipped with the reason where it cannot be had.
    """
    with apache_kafka_44(None) as kafka:
        yield kafka


@pytest.fixture
def place() -> Iterator[Place]:
    """Where runs on Ray are, and end with the test."""
    pytest.importorskip("ray")
    made = Place()
    yield made
    made.close()


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has set up, to be copied."""
    return mlflow.migrated(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


@pytest.fixture
def uri(database: Path, tmp_path: Path) -> str:
    """An MLflow of its own for each test."""
    shutil.copy(database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def summary() -> Callable[[Path], dict[str, Any]]:
    """Reads the summary of a run folder."""
    return lambda folder: json.loads((folder / "summary.json").read_text())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests run in a folder of their own, and leave nothing behind: a user's module of one is not
    that of the next."""
    monkeypatch.chdir(tmp_path)
    path, known, here = list(sys.path), dict(sys.modules), f"{tmp_path}{os.sep}"
    yield
    sys.path[:] = path
    # There are thousands: to go through them takes longer than most tests, which import nothing.
    same = all(map(is_, sys.modules.values(), known.values())) and len(sys.modules) == len(known)
    for name, module in [] if same else list(sys.modules.items()):
        if known.get(name) is not module:
            file = None
            with suppress(Exception):  # lazy ones of others may raise anything
                file = module.__file__
            if isinstance(file, str) and file.startswith(here):
                del sys.modules[name]
