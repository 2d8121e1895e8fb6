"""The parts of a run as actors: plain classes, which ``driver.py`` starts on Ray. The replicas of
the server are in ``replicas.py``.

```
 SourceActor ──blocks, read ahead──▶ TrainerActor ──snapshots──▶ Replica ──answers──▶ EvaluatorActor
                                        │  └─────────labels───────────────────────────▲    │
                                        └──▶ metrics.jsonl ──▶ TrackerActor ◀── served.jsonl
```

Where a job has encoders, the trainer sends columns to ``EncoderActor`` (``encoders.py``) and takes
vectors back, some pieces ahead. Blocks and snapshots travel by reference through the object store;
no actor waits for the trainer. Ray starts an actor that died again, with the arguments of its
constructor, and it goes on: the source at the position of the next call, the trainer at its newest
checkpoint, the tracker at the byte that it had delivered, the evaluator at its totals of a second
ago. Only predictions served within that second are not scored.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from learners.pretrained.encoders.columns import EncodedColumns
from pipeline.callbacks.label_feed import LabelFeed
from pipeline.callbacks.offset_commits import OffsetCommits
from pipeline.callbacks.probe_evaluator import Evaluator, SnapshotQueue, SnapshotScorer
from pipeline.callbacks.run_status import RunStatus
from pipeline.callbacks.snapshot_publisher import SnapshotPublisher
from pipeline.config.errors import JobError
from pipeline.config.job import Job
from pipeline.config.sections import TrackConfig
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import Snapshot
from pipeline.models.threads import set_threads
from pipeline.runners.default_callbacks import callbacks_for
from pipeline.runners.ray.callbacks import StartTracker, commit_to, label_sender
from pipeline.runners.ray.encoders import RemoteEncoding
from pipeline.runners.ray.job_package import JobPackage
from pipeline.runners.ray.snapshots import SnapshotFetcher, SnapshotReference, SnapshotSender
from pipeline.runners.ray.sources import RemoteBlocks
from pipeline.serving.scoring import PredictionLog, ServedPredictionScorer
from pipeline.storage.metric_log import MetricLog
from pipeline.storage.run_folder import TOKEN, FolderLockedError
from pipeline.tracking.mlflow_client import load
from pipeline.tracking.mlflow_delivery import Status, Tracker, check
from pipeline.training.callback import Callback
from pipeline.training.event_source import RunStoppedError
from pipeline.training.run import Run
from streams.core.batch import Array, Ints

PROBES_SHARE = 0.1
"""Share of a core that scoring probes may take."""
LOCK_TIMEOUT_S = 30.0
"""How long a trainer waits for the one before it to release the folder."""


class MessageOutlet:
    """Keep messages until the driver fetches them; the oldest of more than 1,000 are dropped."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=1000)

    def say(self, text: str) -> None:
        self._lines.append(text)

    def lines(self) -> list[str]:
        """Return the messages since the last call."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return lines


class TrainerActor(MessageOutlet):
    """Run the loop in ``run``; the other methods may be called meanwhile.

    Args:
        package: the job.
        folder: the run folder.
        token: in the folder, written by the driver.
        publisher: publishes snapshots for servers.
    """

    def __init__(
        self,
        package: JobPackage,
        folder: Path,
        token: str,
        publisher: SnapshotPublisher | None = None,
    ) -> None:
        super().__init__()
        self._package = package
        self._folder = folder
        self._token = token
        self._run: Run | None = None
        self._stopping = False
        self._running: Future[dict[str, Any]] | None = None
        self._status = RunStatus()
        self._publisher = publisher or SnapshotPublisher()
        self._snapshots: SnapshotQueue | None = None
        self._process = uuid.uuid4().hex  # tells its snapshots from those of an earlier process
        self._sender, self._probe_sender = SnapshotSender(), SnapshotSender()
        self._newest: tuple[int, SnapshotReference | None] = (0, None)
        self._lock = threading.Lock()

    def run(
        self,
        sources: Sequence[Any],
        evaluator: Any | None,
        tracker: Any | None,
        warm_from: Path | None,
        max_events: int | None,
        record: Path | None = None,
        encoding: tuple[EncodedColumns | None, Sequence[Any]] = (None, ()),
    ) -> dict[str, Any]:
        """Run the job, as ``Run.run``, on blocks of the sources, from the newest checkpoint on.

        A second call joins the first: a driver may take this process for dead and call again.
        """
        with self._lock:
            first = self._running is None
            running = self._running = self._running or Future()
        if first:
            try:
                options = warm_from, max_events, record, encoding
                summary = self._execute(sources, evaluator, tracker, *options)
                running.set_result(summary)
            except BaseException as error:
                running.set_exception(error)
        return running.result()

    def _execute(
        self,
        sources: Sequence[Any],
        evaluator: Any | None,
        tracker: Any | None,
        warm_from: Path | None,
        max_events: int | None,
        record: Path | None,
        encoding: tuple[EncodedColumns | None, Sequence[Any]],
    ) -> dict[str, Any]:
        self._check_folder()
        loaded = self._package.unpack()
        gc.freeze()  # garbage collections then skip all that is loaded by now
        callbacks = self._callbacks(loaded.job, sources, evaluator, tracker)
        blocks = RemoteBlocks(sources, self._on_idle, self.say)
        encoded, encoders = encoding
        remote = None if encoded is None else RemoteEncoding(encoded, encoders, self._on_idle)
        reading = blocks, blocks.identity, remote
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            run = Run(loaded, self._folder, self.say, "ray", record, writes_summary=False)
            self._run = run
            run.stopping = self._stopping
            try:
                return run.run(True, warm_from, max_events, callbacks, *reading)
            except FolderLockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)  # the process before this one is dying

    def _callbacks(
        self, job: Job, sources: Sequence[Any], evaluator: Any | None, tracker: Any | None
    ) -> list[Callback]:
        serving: list[Callback] = []
        if job.serve is not None:
            serving = [self._publisher, LabelFeed(label_sender(evaluator))]
        if job.evaluate.reevaluates_events:
            self._snapshots = SnapshotQueue(job.evaluate.probes.every_events)
        start_tracker = None if tracker is None else StartTracker(tracker)
        commits = OffsetCommits(commit_to(sources))
        return callbacks_for(job, commits, self._status, start_tracker, self._snapshots, serving)

    def _check_folder(self) -> None:
        """Raise ``JobError`` where this machine sees another folder than the driver: the run would
        find no checkpoint here, and begin anew."""
        try:
            token = (self._folder / TOKEN).read_text()
        except OSError:
            token = ""
        if token != self._token:
            raise JobError(
                f"{self._folder} is not the run folder here that it is where the command was given:"
                " --run-dir must lie on storage that all machines of the cluster see"
            )

    def _on_idle(self) -> None:
        if self._stopping:
            raise RunStoppedError
        if self._run is not None:
            self._run.idle()

    def stop(self) -> None:
        """Stop after the current micro-batch, with a checkpoint."""
        self._stopping = True
        if self._run is not None:
            self._run.stop()

    def status(self) -> dict[str, Any]:
        """Return where the run stands: events, events in all, metrics."""
        return self._status.current

    def next_probe_snapshot(self, timeout: float) -> SnapshotReference | None:
        """Return where the next snapshot with probes is, each once; None after ``timeout`` seconds
        without one."""
        snapshots = self._snapshots
        snapshot = None if snapshots is None else snapshots.next(timeout)
        return None if snapshot is None else self._probe_sender.put(snapshot)

    def snapshot(self, mark: str, timeout: float) -> tuple[str, SnapshotReference] | None:
        """Wait for a snapshot newer than the one with ``mark``.

        Each is put into the object store once, however many replicas ask.

        Returns:
            The mark of the newest snapshot and where it is; None after ``timeout`` seconds without
            a newer one.
        """
        process, _, known = mark.partition("/")
        newer = self._publisher.newer(int(known) if process == self._process else 0, timeout)
        if newer is None:
            return None
        number, snapshot = newer
        with self._lock:
            newest, reference = self._newest
            if reference is None or newest < number:
                self._newest = newest, reference = number, self._sender.put(snapshot)
            return f"{self._process}/{newest}", reference


class EvaluatorActor(MessageOutlet):
    """Score beside the training.

    Served predictions come from the replicas and labels from the trainer. Probes are scored on
    snapshots, which a thread fetches from the trainer.

    Args:
        namespace: of the actors.
        made: the recipe of the model.
        folder: the run folder.
        package: the job, with the modules that the model needs.
        asks: whether there are probes, or once-seen events, to score.
    """

    def __init__(
        self, namespace: str, made: Recipe, folder: Path, package: JobPackage, asks: bool
    ) -> None:
        super().__init__()
        package.unpack()
        set_threads(1)
        self._namespace = namespace
        self._folder = folder
        self._scores = ServedPredictionScorer(made["task"], folder / "served.json")
        self._rows: MetricLog | None = None
        self._trainer: Any = None
        self._fetcher = SnapshotFetcher()
        self._scorer: SnapshotScorer | None = None
        if asks:
            evaluator = Evaluator(made, folder, self.say)
            self._scorer = SnapshotScorer(evaluator, self._fetch, self.say, PROBES_SHARE)
            self._scorer.start()

    def _fetch(self, timeout: float) -> Snapshot | None:
        """Fetch the next snapshot of the trainer; None after ``timeout`` seconds without one, or
        where there is no trainer just now."""
        try:
            self._trainer = self._trainer or ray.get_actor("trainer", self._namespace)
            next_snapshot = self._trainer.next_probe_snapshot.remote(timeout)
            reference = ray.get(next_snapshot, timeout=timeout + 10)
            return None if reference is None else self._fetcher.get(reference)
        except (RayError, ValueError):
            self._trainer = None
            time.sleep(timeout)
            return None

    def finish(self) -> dict[str, float]:
        """Score the snapshots that still wait; return the metrics by name."""
        return {} if self._scorer is None else self._scorer.close()

    def answered(self, answers: PredictionLog) -> None:
        """Take predictions that a replica has served."""
        self._scores.answered(answers)

    def labelled(self, ids: Ints, y: Array, before: Ints) -> None:
        """Take labels (n,) of events (n,), each with the last version that had not learned it."""
        self._scores.labelled(ids, y, before)

    def write(self, events: int) -> dict[str, float]:
        """Write a row of metrics after ``events`` events, and the totals; return the metrics."""
        results = self._scores.results()
        if self._rows is None:
            self._rows = MetricLog(self._folder / "served.jsonl", self.say)
        self._rows.write(events, results)
        self._scores.keep()
        return results


class TrackerActor(MessageOutlet):
    """Deliver metrics to MLflow; once started again, go on where the process before it stood."""

    def __init__(
        self,
        config: TrackConfig,
        folder: Path,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
    ) -> None:
        super().__init__()
        os.nice(10)  # all other work of this machine is more urgent
        check(config)
        assert config.uri is not None
        load(config.uri)  # for some seconds, while the other actors start
        self._made = (config, folder, name, params, tags)
        self._tracker: Tracker | None = None
        self._lock = threading.Lock()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self.start()

    def start(self) -> None:
        """Begin or continue the run in MLflow. Raise ``TrackError``."""
        with self._lock:
            if self._tracker is None:
                tracker = Tracker(*self._made, self.say, share=0.1)
                tracker.start()
                self._tracker = tracker

    def run_id(self) -> str | None:
        """Return the id of the MLflow run, if there is one."""
        return None if self._tracker is None else self._tracker.run_id

    def close(self, status: Status, artifacts: list[Path]) -> str | None:
        """Deliver what is left; return the id of the MLflow run, if there is one."""
        self.start()
        assert self._tracker is not None
        self._tracker.close(status, artifacts)
        return self._tracker.run_id
