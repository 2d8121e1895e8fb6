"""The actors as plain classes: what holds without a cluster around them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from pipeline.config.errors import JobError
from pipeline.runners.ray.actors import MessageOutlet, TrainerActor
from pipeline.runners.ray.job_package import JobPackage
from pipeline.storage.run_folder import RunFolder

SHIPMENT = JobPackage({}, Path("job.yaml"), Path())


class Slow(TrainerActor):
    """Leads a run until it is let go."""

    def __init__(self) -> None:
        super().__init__(SHIPMENT, Path("run"), "token")
        self.led = 0
        self.go = threading.Event()
        self.error: Exception | None = None

    def _execute(self, *_: Any) -> dict[str, Any]:
        self.led += 1
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        return {"events": 1}


@pytest.mark.parametrize("error", [None, JobError("it went wrong")])
def test_trainer_second_call_of_run_joins_the_first(error: Exception | None) -> None:
    trainer = Slow()
    trainer.error = error
    got: list[Any] = []

    def ask() -> None:
        try:
            got.append(trainer.run(None, None, None, None, None))
        except JobError as failed:
            got.append(failed)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    trainer.go.set()
    for thread in threads:
        thread.join(30)
    assert trainer.led == 1
    assert got == [error or {"events": 1}] * 3


def test_trainer_refuses_a_folder_without_its_token(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.claim("mine", resume=False)
    TrainerActor(SHIPMENT, folder.path, "mine")._check_folder()
    for other, token in ((folder.path, "yours"), (tmp_path / "elsewhere", "mine")):
        with pytest.raises(JobError, match="storage that all machines of the cluster see"):
            TrainerActor(SHIPMENT, other, token)._check_folder()


def test_folder_claimed_anew_has_no_old_results(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = ("metrics.jsonl", "served.jsonl", "served.json", "track.json", "summary.json")
    for name in names:
        (tmp_path / name).write_text("{}")
    folder.claim("token", resume=True)
    assert all((tmp_path / name).exists() for name in names)
    folder.claim("token", resume=False)
    assert not any((tmp_path / name).exists() for name in names)


def test_trainer_without_a_model_has_no_snapshot() -> None:
    assert TrainerActor(SHIPMENT, Path("run"), "token").snapshot("", 0.01) is None


def test_outlet_lines_are_fetched_once_and_bounded() -> None:
    speaker = MessageOutlet()
    for i in range(3000):
        speaker.say(str(i))
    assert speaker.lines() == [str(i) for i in range(2000, 3000)]
    assert speaker.lines() == []
