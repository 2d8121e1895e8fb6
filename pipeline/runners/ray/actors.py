"""The parts of a run as actors: plain classes, decorated at the edge (``cluster.py``). The replicas
of the server are in ``replicas.py``.

```
 SourceActor ──blocks, read ahead──▶ TrainerActor ──snapshots──▶ Replica ──answers──▶ EvaluatorActor
                                        │  └─────────labels───────────────────────────▲    │
                                        └──▶ metrics.jsonl ──▶ TrackerActor ◀── served.jsonl
```

Blocks and snapshots travel by reference through the object store; the trainer is asked for them or
asks for them, and is never waited for. Whoever dies is started again by Ray, with nothing but what
it was made with, and goes on: the source at the position it is told, the trainer at its newest
checkpoint, the tracker at the byte that it had delivered, the evaluator at the totals of a second
ago: what was served and not counted by then is lost, and nothing else.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import ray
import torch
from ray.exceptions import (
    PendingCallsLimitExceeded,
    RayError,
    RayTaskError,
)

from pipeline.callbacks.consumer_lag import ConsumerLag
from pipeline.callbacks.label_feed import LabelFeed
from pipeline.callbacks.metric_writer import MetricWriter
from pipeline.callbacks.probe_evaluator import Evaluator, SnapshotQueue, SnapshotScorer
from pipeline.callbacks.snapshot_publisher import SnapshotPublisher
from pipeline.config.errors import JobError
from pipeline.config.sections import TrackConfig
from pipeline.dead_letters.topic_writer import DeadLetterForwarder
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import Snapshot
from pipeline.runners.ray.job_package import JobPackage
from pipeline.runners.ray.sources import RemoteBlocks
from pipeline.serving.scoring import PredictionLog, ServedPredictionScorer
from pipeline.storage.metric_log import MetricLog
from pipeline.storage.run_folder import TOKEN, FolderLockedError
from pipeline.tracking.mlflow_client import load
from pipeline.tracking.mlflow_delivery import Status, Tracker, check
from pipeline.training.builder import Parts
from pipeline.training.callback import Callback
from pipeline.training.journaled_source import RunStoppedError
from pipeline.training.loop import Loop
from pipeline.training.run import Run
from streams.core.batch import Array, Ints
from streams.core.errors import one_line
from streams.core.stream import Cursor

PROBES_SHARE = 0.1
"""Of a core that scoring probes may take."""
HELD_S = 30.0
"""How long a trainer waits for the one before it to let go of the folder."""


class MessageOutlet:
    """Keeps lines for a person until the driver fetches them."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=1000)

    def say(self, text: str) -> None:
        self._lines.append(text)

    def lines(self) -> list[str]:
        """What was said since the last call."""
        said = []
        while self._lines:
            said.append(self._lines.popleft())
        return said


class TrainerActor(MessageOutlet):
    """The loop. ``run`` leads it; the other methods may be called meanwhile."""

    def __init__(
        self,
        shipment: JobPackage,
        folder: Path,
        token: str,
        publisher: SnapshotPublisher | None = None,
    ) -> None:
        super().__init__()
        self._shipment = shipment
        self._folder = folder
        self._token = token
        self._run: Run | None = None
        self._stopping = False
        self._leading: Future[dict[str, Any]] | None = None
        self._standing = RunStatus()
        self._publisher = publisher or SnapshotPublisher()
        self._asking: SnapshotQueue | None = None
        self._process = uuid.uuid4().hex  # tells its snapshots from those of the one before it
        self._newest: tuple[int, Any] = (0, None)
        self._lock = threading.Lock()

    def run(
        self,
        sources: Sequence[Any],
        evaluator: Any | None,
        tracker: Any | None,
        warm_from: Path | None,
        max_events: int | None,
        record: Path | None = None,
    ) -> dict[str, Any]:
        """As ``Run.run``, on blocks of the source, from the newest checkpoint where there is one.

        A second call, of a driver that took this process for dead, joins the first.
        """
        with self._lock:
            first = self._leading is None
            leading = self._leading = self._leading or Future()
        if first:
            try:
                summary = self._lead(sources, evaluator, tracker, warm_from, max_events, record)
                leading.set_result(summary)
            except BaseException as error:
                leading.set_exception(error)
        return leading.result()

    def _lead(
        self,
        sources: Sequence[Any],
        evaluator: Any | None,
        tracker: Any | None,
        warm_from: Path | None,
        max_events: int | None,
        record: Path | None = None,
    ) -> dict[str, Any]:
        self._check_folder()
        loaded = self._shipment.unpack()
        gc.freeze()  # all that is loaded: no collection need go over it again
        lag = ConsumerLag()
        watchers: list[Callback] = [
            _Committing(sources),
            DeadLetterForwarder(),
            lag,
            self._standing,
        ]
        if loaded.job.track is not None:
            assert tracker is not None
            watchers += [StartTracker(tracker), MetricWriter(loaded.job.track.every_events, lag)]
        if loaded.job.serve is not None:
            watchers += [self._publisher, LabelFeed(_to(evaluator))]
        if (evaluate := loaded.job.evaluate).reevaluates_events:
            self._asking = SnapshotQueue(evaluate.probes.every_events)
            watchers.append(self._asking)
        blocks = RemoteBlocks(sources, self._idle, self.say)
        deadline = time.monotonic() + HELD_S
        while True:
            self._run = run = Run(loaded, self._folder, self.say, "ray", record)
            run.stopping = self._stopping
            try:
                return run.run(True, warm_from, max_events, watchers, blocks)
            except FolderLockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)  # the process before this one is dying

    def _check_folder(self) -> None:
        """Raises ``JobError`` where this machine sees another folder than the driver's: a run that
        went on here would find no checkpoint, and begin anew."""
        try:
            found = (self._folder / TOKEN).read_text()
        except OSError:
            found = ""
        if found != self._token:
            raise JobError(
                f"{self._folder} is not the run folder here that it is where the command was given:"
                " --run-dir must lie on storage that all machines of the cluster see"
            )

    def _idle(self) -> None:
        if self._stopping:
            raise RunStoppedError
        self._publisher.idle()

    def stop(self) -> None:
        """Stops after the micro-batch at hand, with a checkpoint."""
        self._stopping = True
        if self._run is not None:
            self._run.stop()

    def status(self) -> dict[str, Any]:
        """Where the run stands: events, events in all, metrics."""
        return self._standing.told()

    def probed(self, timeout: float) -> list[Any] | None:
        """A reference to the next snapshot with probes, once; None after so many seconds without
        one."""
        asking = self._asking
        snapshot = None if asking is None else asking.next(timeout)
        return None if snapshot is None else [ray.put(snapshot)]

    def snapshot(self, mark: str, timeout: float) -> tuple[str, list[Any]] | None:
        """A mark of the newest snapshot, and a reference to it; None where that with ``mark`` is
        the newest for another ``timeout`` seconds. It is put into the object store once, however
        many ask."""
        process, _, known = mark.partition("/")
        found = self._publisher.newer(int(known) if process == self._process else 0, timeout)
        if found is None:
            return None
        number, snapshot = found
        with self._lock:
            if self._newest[0] < number:
                self._newest = (number, ray.put(snapshot))
            number, reference = self._newest
            return f"{self._process}/{number}", [reference]


class RunStatus(Callback):
    """Where a run stands, a few times a second, for whoever asks from another thread."""

    def __init__(self, every_s: float = 0.3) -> None:
        self.every_s = every_s
        self._due = 0.0
        self._told: dict[str, Any] = {"events": 0, "total": None, "metrics": {}}

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        self._told = {"events": parts.loop.events, "total": total, "metrics": {}}

    def __call__(self, loop: Loop) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self.every_s
            self._told = {**self._told, "events": loop.events, "metrics": loop.results()}

    def told(self) -> dict[str, Any]:
        return self._told


class _Committing(Callback):
    """Tells the sources what checkpoints hold."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self.sources = sources

    def kept(self, cursor: Cursor, dead_bytes: int) -> None:
        for source in self.sources:
            source.commit.remote(cursor)


class StartTracker(Callback):
    """Has the tracker begin once the folder is held and the job is written into it, and waits as
    long as it would wait for MLflow: setting up a database takes a core for some seconds."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker

    def begin(self, run: Run, parts: Parts, total: int | None) -> None:
        try:
            ray.get(self.tracker.start.remote())
        except RayTaskError as error:
            raise JobError(one_line(error.cause)) from None
        except RayError:
            pass  # it died: started again, it begins by itself


def _to(evaluator: Any) -> Callable[[Ints, Array, Ints], None]:
    def send(ids: Ints, y: Array, before: Ints) -> None:
        # One that does not keep up costs scores of what was served, and never the training.
        with suppress(PendingCallsLimitExceeded):
            evaluator.labelled.remote(ids, y, before)

    return send


class EvaluatorActor(MessageOutlet):
    """Scores beside the training: what was served (answers come from replicas, labels from the
    trainer), and probes on snapshots that it fetches from the trainer in a thread of its own."""

    def __init__(
        self, namespace: str, made: Recipe, folder: Path, shipment: JobPackage, asks: bool
    ) -> None:
        super().__init__()
        torch.set_num_threads(1)
        shipment.unpack()
        self._namespace = namespace
        self._folder = folder
        self._scores = ServedPredictionScorer(made["task"], folder / "served.json")
        self._rows: MetricLog | None = None
        self._trainer: Any = None
        self._scorer: SnapshotScorer | None = None
        if asks:
            evaluator = Evaluator(made, folder, self.say)
            self._scorer = SnapshotScorer(evaluator, self._fetch, self.say, PROBES_SHARE)
            self._scorer.start()

    def _fetch(self, timeout: float) -> Snapshot | None:
        """The next snapshot of the trainer; None after so many seconds without one, or where there
        is no trainer just now."""
        try:
            self._trainer = self._trainer or ray.get_actor("trainer", self._namespace)
            found = ray.get(self._trainer.probed.remote(timeout), timeout=timeout + 10)
            return None if found is None else cast(Snapshot, ray.get(found[0], timeout=10))
        except (RayError, ValueError):
            self._trainer = None
            time.sleep(timeout)
            return None

    def finish(self) -> dict[str, float]:
        """The run has ended: scores the probes on what waits; metrics by name."""
        return {} if self._scorer is None else self._scorer.close()

    def answered(self, answers: PredictionLog) -> None:
        self._scores.answered(answers)

    def labelled(self, ids: Ints, y: Array, before: Ints) -> None:
        self._scores.labelled(ids, y, before)

    def write(self, events: int) -> dict[str, float]:
        """Writes a row of metrics as of ``events`` events, and keeps the totals; the metrics."""
        results = self._scores.results()
        if self._rows is None:
            self._rows = MetricLog(self._folder / "served.jsonl", self.say)
        self._rows.write(events, results)
        self._scores.keep()
        return results


class TrackerActor(MessageOutlet):
    """Tells MLflow. One that is started anew goes on where the one before it was."""

    def __init__(
        self,
        config: TrackConfig,
        folder: Path,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
    ) -> None:
        super().__init__()
        os.nice(10)  # whatever else this machine does is more urgent
        check(config)
        load(config.uri)  # for some seconds, while the other actors start
        self._made = (config, folder, name, params, tags)
        self._tracker: Tracker | None = None
        self._lock = threading.Lock()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.start()

    def start(self) -> None:
        """Begins or continues the run in MLflow. Raises ``TrackError``."""
        with self._lock:
            if self._tracker is None:
                tracker = Tracker(*self._made, self.say, share=0.1)
                tracker.start()
                self._tracker = tracker

    def close(self, status: Status, artifacts: list[Path]) -> str | None:
        """Delivers what is left; the id of the MLflow run, if there is one."""
        self.start()
        assert self._tracker is not None
        self._tracker.close(status, artifacts)
        return self._tracker.run_id
