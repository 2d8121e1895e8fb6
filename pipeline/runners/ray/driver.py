"""The Ray runner: start the actors, supervise them, and leave no process behind.

Only the driver ends actors, and none outlives it. On a cluster the server does, and answers with
its last model until the run goes on. Ray starts an actor that died again; the driver then has the
trainer go on from its newest checkpoint.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from learners.pretrained.encoders.columns import EncodedColumns
from pipeline.callbacks.alert_watcher import check_last_rows
from pipeline.callbacks.probe_evaluator import FINISH_S
from pipeline.callbacks.progress import LiveProgress
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.report.build import attach_report
from pipeline.runners.ray import actors, encoders, replicas
from pipeline.runners.ray.actor_poller import ActorPoller
from pipeline.runners.ray.connection import free_port, ray_session
from pipeline.runners.ray.folder_claim import claim_folder
from pipeline.runners.ray.job_package import JobPackage
from pipeline.runners.ray.sources import SourceActor
from pipeline.storage.checkpoints import Checkpoints
from pipeline.storage.run_folder import RunFolder
from pipeline.tracking.mlflow_client import absolute
from pipeline.tracking.mlflow_delivery import ARTIFACTS, Status, TrackError, check, tags
from pipeline.tracking.mlflow_delivery import describe as describe_values
from pipeline.training.builder import Parts, build
from pipeline.training.callback import Say
from pipeline.training.description import describe
from pipeline.training.errors import RunError
from streams.core.errors import one_line

POLL_INTERVAL_S = 0.25
"""Seconds between two polls of the actors."""
DEATHS = 3
"""How often the trainer may die without a new checkpoint before the run fails."""
PATIENCE_S = 15.0
"""Seconds without room in the cluster after which the wait is reported."""
CPUS = {"trainer": 1.0, "source": 0.5, "encoder": 1.0, "evaluator": 0.1, "tracker": 0.1}
"""CPUs that each actor asks of the scheduler."""


class RayRunner:
    """One run of a job on Ray.

    Args:
        loaded: the job.
        folder: the run folder; on a cluster, on storage that all machines see.
        say: takes lines for a person.
        address: of a cluster; None starts a Ray of its own on this machine.
        rate: events a second to read at most; None reads as fast as they come.
        record: a folder that the stream, a live one, is recorded into; where the trainer sees it.

    Attributes:
        trainer: the class of the trainer; a benchmark has one of its own.
    """

    trainer: type[actors.TrainerActor] = actors.TrainerActor

    def __init__(
        self,
        loaded: LoadedJob,
        folder: Path,
        say: Say,
        address: str | None = None,
        rate: float | None = None,
        record: Path | None = None,
    ) -> None:
        self.loaded = loaded
        self.folder = RunFolder(folder.resolve())
        self.say = say
        self.address = address
        self.rate = rate
        self.record = None if record is None else record.resolve()
        self.stopping = False
        self._stop_sent = False  # to the trainer
        self._sources = ["source"]
        self._encoders: list[str] = []
        self._actors: dict[str, Any] = {}

    def stop(self) -> None:
        """Stop after the current micro-batch, with a checkpoint."""
        self.stopping = True

    def run(
        self,
        resume: bool,
        warm_from: Path | None,
        max_events: int | None,
        progress: LiveProgress,
    ) -> dict[str, Any]:
        """Run the job, as ``Run.run``.

        Raises:
            JobError: nothing was started.
            RunError: the run failed; the state up to the last checkpoint is kept.
        """
        # Errors of the job are found here, before anything starts. The driver needs no GPU.
        parts = build(self.loaded.on_device("cpu"))
        package = JobPackage.of(self.loaded)
        self._check_tracking()
        self._sources += [f"source-{i}" for i in range(2, parts.stream.readers + 1)]
        if parts.encoded is not None:
            self._encoders = [f"encoder-{i + 1}" for i in range(self.loaded.job.encoders.workers)]
        warm_from = None if warm_from is None else warm_from.resolve()
        with ExitStack() as stack:
            self._start(stack, parts, package, resume)
            if not resume:
                progress.announce(describe(self.loaded, parts))
            try:
                summary = self._supervise(parts.encoded, warm_from, max_events, progress)
                return self._close(summary)
            except JobError:  # nothing was begun
                raise
            except RunError:
                self._finish_tracking("FAILED")
                raise
            except Exception as error:  # a full disk, or a defect: the checkpoints are there
                self._finish_tracking("FAILED")
                what = f"{type(error).__name__}: {one_line(error)} (details: {self.folder.log()})"
                if isinstance(error, OSError):
                    what = f"{error.strerror or error}: {error.filename or self.folder.path}"
                raise RunError(
                    f"{what}. The checkpoints are kept; go on with the same command and --resume"
                ) from error

    def _check_tracking(self) -> None:
        if self._tracks:
            assert self.loaded.job.track is not None
            try:
                check(self.loaded.job.track)
            except TrackError as error:
                raise JobError(f"{self.loaded.file}: {error}") from None

    def _start(self, stack: ExitStack, parts: Parts, package: JobPackage, resume: bool) -> None:
        """Claim the folder, connect to Ray, start the actors and the server."""
        job = self.loaded.job
        port = self._reserve_port(stack)
        token = uuid.uuid4().hex
        timeout = actors.LOCK_TIMEOUT_S
        claim_folder(self.folder, token, resume, timeout, lambda: self.stopping)
        log = self.folder.path / "ray.log"
        stack.enter_context(ray_session(self.address, job.name, self._cpus(), log))
        stack.callback(self._kill_actors)
        self._start_actors(parts, package, token)
        if job.serve is not None:
            about = (job.serve, job.name, parts.recipe, package)
            stack.enter_context(replicas.deploy(*about, port, self._wait, self.say))

    def _reserve_port(self, stack: ExitStack) -> socket.socket | None:
        """Return a socket on the port of the server; None where a cluster serves, or nobody."""
        config = self.loaded.job.serve
        if config is None:
            return None
        if self.address is None:
            return stack.enter_context(free_port(config.host, config.port))
        if not config.port:
            raise JobError("serve.port: 0 takes a free one on this machine; a cluster needs one")
        return None

    @property
    def _tracks(self) -> bool:
        """Whether metrics are delivered to MLflow."""
        track = self.loaded.job.track
        return track is not None and track.uri is not None

    @property
    def _evaluates(self) -> bool:
        """Whether there is anything to score beside the training."""
        job = self.loaded.job
        return job.serve is not None or job.evaluate.reevaluates_events

    def _cpus(self) -> float:
        """Return the CPUs that all actors together ask for."""
        names = ["trainer", *self._sources, *self._encoders]
        names += [*["tracker"] * self._tracks, *["evaluator"] * self._evaluates]
        serve = self.loaded.job.serve
        replicated = 0 if serve is None else replicas.CPUS * serve.replicas
        return replicated + sum(CPUS[name.partition("-")[0]] for name in names)

    def _start_actors(self, parts: Parts, package: JobPackage, token: str) -> None:
        job, folder = self.loaded.job, self.folder.path
        gpus = {} if job.device == "cpu" else {"num_gpus": 1}
        start = self._start_actor
        for name in self._sources:
            start(name, SourceActor, package, self.rate)
        for name in self._encoders:
            about = (package, parts.encoded, parts.stream.schema)
            restarts = {"max_task_retries": encoders.DEATHS, "num_gpus": job.encoders.gpus}
            start(name, encoders.EncoderActor, *about, **restarts)
        start("trainer", self.trainer, package, folder, token, max_concurrency=64, **gpus)
        if self._evaluates:
            # Labels that wait for a slow evaluator must not fill the object store.
            arguments = (job.name, parts.recipe, folder, package, job.evaluate.reevaluates_events)
            start("evaluator", actors.EvaluatorActor, *arguments, max_pending_calls=100)
        if job.track is not None and job.track.uri is not None:
            # The tracker may run in another folder, or on another machine.
            config = job.track.model_copy(update={"uri": absolute(job.track.uri)})
            params, run_tags = describe_values(self.loaded.values()), tags(self.loaded.folder)
            tracked = (config, folder, job.name, params, run_tags)
            start("tracker", actors.TrackerActor, *tracked, max_concurrency=2)
        for name, actor in self._actors.items():
            ready = actor.__ray_ready__.remote()
            self._wait(partial(_is_ready, ready), name)
            try:
                ray.get(ready)
            except RayError as error:
                raise _not_started(name, error) from None

    def _start_actor(self, name: str, cls: type[Any], *arguments: Any, **more: Any) -> None:
        options = {
            "name": name,
            "num_cpus": CPUS[name.partition("-")[0]],
            "max_restarts": -1,
            **more,
        }
        try:
            self._actors[name] = ray.remote(cls).options(**options).remote(*arguments)
        except ValueError as error:  # the name is taken
            raise JobError(
                f"a run of job {self.loaded.job.name!r} is going on in this cluster already: stop "
                f"it, or give the job another name ({one_line(error)})"
            ) from None

    def _wait(self, done: Callable[[], bool], name: str) -> None:
        """Wait until an actor is up. Raise ``JobError`` where the run is to stop before."""
        report = time.monotonic() + PATIENCE_S
        while not done():
            if self.stopping:
                raise JobError("stopped before anything was started")
            if time.monotonic() > report:
                report = float("inf")
                self.say(f"waiting for the cluster to have room for the {name}")

    def _supervise(
        self,
        encoded: EncodedColumns | None,
        warm_from: Path | None,
        max_events: int | None,
        progress: LiveProgress,
    ) -> dict[str, Any]:
        """Let the trainer run to its end, however often it dies on the way."""
        trainer = self._actors["trainer"]
        others = [self._actors.get(name) for name in ("evaluator", "tracker")]
        sources = [self._actors[name] for name in self._sources]
        encoding = (encoded, [self._actors[name] for name in self._encoders])
        arguments = (sources, *others, warm_from, max_events, self.record, encoding)
        checkpoints = Checkpoints(self.folder.checkpoints, 1, self.say)
        running = trainer.run.remote(*arguments)
        serves = self.loaded.job.serve is not None
        poller = ActorPoller(self._actors, self.say, progress, serves)
        deaths, last = 0, checkpoints.all()[-1:]
        while True:
            done, _ = ray.wait([running], timeout=POLL_INTERVAL_S)
            poller.poll()
            if self.stopping and not self._stop_sent:
                self._stop_sent = True
                trainer.stop.remote()
            if not done:
                continue
            try:
                summary: dict[str, Any] = ray.get(running)
                poller.drain()
                return summary
            except RayTaskError as error:
                poller.drain()
                raise _cause(error) from None
            except RayError as error:
                now = checkpoints.all()[-1:]
                deaths = deaths + 1 if now == last else 1
                last = now
                if deaths > DEATHS:
                    raise RunError(
                        f"the trainer died {deaths} times without getting any further: "
                        f"{one_line(error)}. Its checkpoints are kept; go on with --resume"
                    ) from None
                self.say("the trainer died; it goes on from its newest checkpoint")
                self._stop_sent = False
                self._wait_again("trainer", error)
                running = trainer.run.remote(*arguments)

    def _wait_again(self, name: str, died: RayError) -> None:
        """Wait until Ray has started the actor again, perhaps on another machine."""
        report = time.monotonic() + 2 * PATIENCE_S
        while not self.stopping:
            try:
                ray.get(self._actors[name].__ray_ready__.remote(), timeout=5)
                return
            except ActorDiedError as error:
                raise RunError(
                    f"the {name} died and does not start again: {one_line(error)}. Its checkpoints "
                    "are kept; go on with --resume"
                ) from None
            except RayError:
                if time.monotonic() > report:
                    report = float("inf")
                    self.say(f"waiting for the cluster to have room for the {name} again")
                time.sleep(POLL_INTERVAL_S)
        raise RunError(
            f"stopped while the {name} was down ({one_line(died)}). Its checkpoints are kept; go "
            "on with the same command and --resume"
        )

    def _close(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Complete and write the summary, then the report, then the run in MLflow."""
        if evaluator := self._actors.get("evaluator"):
            summary["metrics"] |= self._last_scores(evaluator, summary["events"])
        summary["mlflow_run_id"] = known = self._mlflow_run_id()
        self.folder.write_summary(summary)
        check_last_rows(self.loaded.job, self.folder.path, self.say)
        if self._tracks:
            attach_report(self.folder.path, self.say)
        stopped = self.stopping and not summary["finished"]
        run_id = self._finish_tracking("KILLED" if stopped else "FINISHED")
        if run_id is not None and run_id != known:  # MLflow was away until now
            summary["mlflow_run_id"] = run_id
            self.folder.write_summary(summary)
        return summary

    def _last_scores(self, evaluator: Any, events: int) -> dict[str, float]:
        """Let the evaluator score what waits; return its metrics."""
        metrics: dict[str, float] = {}
        try:
            metrics |= ray.get(evaluator.finish.remote(), timeout=2 * FINISH_S[1])
        except RayError as error:
            self.say(f"the last snapshots were not scored on their probes: {one_line(error)}")
        if self.loaded.job.serve is not None:
            time.sleep(2 * replicas.REPORT_S)  # until the replicas have reported
            with suppress(RayError):
                metrics |= ray.get(evaluator.write.remote(events), timeout=10)
        with suppress(RayError):
            for line in ray.get(evaluator.lines.remote(), timeout=5):
                self.say(line)
        return metrics

    def _mlflow_run_id(self) -> str | None:
        """Return the id of the MLflow run, where there is one by now."""
        tracker = self._actors.get("tracker")
        if tracker is not None:
            with suppress(RayError):
                run_id: str | None = ray.get(tracker.run_id.remote(), timeout=10)
                return run_id
        return None

    def _finish_tracking(self, status: Status) -> str | None:
        """End the run in MLflow; return its id there."""
        tracker = self._actors.get("tracker")
        if tracker is None:
            return None
        files = [self.folder.path / name for name in ARTIFACTS]
        for _ in range(3):  # it may be dying just now
            try:
                run_id: str | None = ray.get(tracker.close.remote(status, files), timeout=60)
                for line in ray.get(tracker.lines.remote(), timeout=5):
                    self.say(line)
                return run_id
            except RayTaskError as error:
                self.say(f"tracking: {one_line(_cause(error))}")
                return None
            except RayError:
                time.sleep(1)
        return None

    def _kill_actors(self) -> None:
        for actor in self._actors.values():
            with suppress(RayError, ValueError):
                ray.kill(actor, no_restart=True)


def _is_ready(reference: Any) -> bool:
    """Return whether the value of a reference is there; wait for it for one interval."""
    return bool(ray.wait([reference], timeout=POLL_INTERVAL_S)[0])


def _cause(error: RayTaskError) -> Exception:
    """Return the error that was raised in the actor."""
    cause = error.cause
    if isinstance(cause, JobError | RunError | TrackError):
        return cause
    if isinstance(cause, Exception):
        return RunError(f"{type(cause).__name__}: {one_line(cause)}")
    return RunError(one_line(error))


def _not_started(name: str, error: RayError) -> JobError:
    """Return the error for an actor that cannot start."""
    text = str(error)
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, JobError):
        return JobError(f"{cause} (on the worker of the {name}: install it there)")
    if "No module named" in text:
        missing = text.split("No module named", 1)[1].splitlines()[0].strip(" '\".")
        return JobError(
            f"the {name} cannot start: module {missing!r} is not on the worker: install it on "
            "every machine of the cluster, or send it along (ray job submit --working-dir)"
        )
    return JobError(f"the {name} cannot start: {one_line(text.strip().splitlines()[-1])}")
