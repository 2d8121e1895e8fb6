"""The Ray runner: starts the actors, sees them through, and leaves no process behind.

The driver is the only one that ends actors, and none outlives it; on a cluster the server does, and
answers with its last model until the run goes on. Ray starts an actor that died again; the driver
then has the trainer go on from its newest checkpoint.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from pipeline.callbacks.probe_evaluator import FINISH_S
from pipeline.callbacks.progress import LiveProgress
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.report.build import hang
from pipeline.runners.ray import actors, replicas
from pipeline.runners.ray.connection import connected, free_port
from pipeline.runners.ray.job_package import JobPackage
from pipeline.runners.ray.sources import SourceActor
from pipeline.storage.checkpoints import Checkpoints
from pipeline.storage.run_folder import FolderLockedError, RunFolder
from pipeline.tracking.mlflow_client import absolute
from pipeline.tracking.mlflow_delivery import ARTIFACTS, Status, TrackError, check, describe, tags
from pipeline.training.builder import Parts, build
from pipeline.training.callback import Say
from pipeline.training.errors import RunError
from streams.core.errors import one_line
from streams.core.live_stream import LiveStream

TURN_S = 0.25
"""How often the driver looks after the actors."""
DEATHS = 3
"""A trainer that dies so often without a new checkpoint is given up."""
PATIENCE_S = 15.0
"""After so long a wait for room in the cluster is told of."""
CPUS = {"trainer": 1.0, "source": 0.5, "evaluator": 0.1, "tracker": 0.1}
"""That each actor asks of the scheduler."""


class RayRunner:
    """One run of a job on Ray.

    Args:
        loaded: the job.
        folder: the run folder; on a cluster, on storage that all machines see.
        say: takes lines for a person.
        address: of a cluster; None starts a Ray of its own on this machine.
        rate: events a second that are read at most; None: as fast as they come.
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
        self._asked = False  # the trainer was asked to stop
        self._sources = ["source"]
        self._actors: dict[str, Any] = {}

    def stop(self) -> None:
        """Stops after the micro-batch at hand, with a checkpoint."""
        self.stopping = True

    def run(
        self,
        resume: bool,
        warm_from: Path | None,
        max_events: int | None,
        progress: LiveProgress,
    ) -> dict[str, Any]:
        """As ``Run.run``.

        Raises:
            JobError: nothing was started.
            RunError: it failed on the way; the state up to the last checkpoint is kept.
        """
        job = self.loaded.job
        # What is wrong with the job is found here, before anything starts. The driver needs no GPU.
        parts = build(self.loaded.on_device("cpu"))
        shipment = JobPackage.of(self.loaded)
        if isinstance(parts.stream, LiveStream):
            self._sources += [f"source-{i}" for i in range(2, parts.stream.readers + 1)]
        if job.track is not None:
            try:
                check(job.track)
            except TrackError as error:
                raise JobError(f"{self.loaded.file}: {error}") from None
        warm_from = None if warm_from is None else warm_from.resolve()
        with ExitStack() as stack:
            port = None
            if job.serve is not None and self.address is None:
                port = stack.enter_context(free_port(job.serve.host, job.serve.port))
            elif job.serve is not None and not job.serve.port:
                raise JobError(
                    "serve.port: 0 takes a free one on this machine; a cluster needs one"
                )
            token = uuid.uuid4().hex
            self._take(token, resume)
            log = self.folder.path / "ray.log"
            stack.enter_context(connected(self.address, job.name, self._cpus(), log))
            stack.callback(self._end)
            self._start(parts, shipment, token)
            if job.serve is not None:
                about = (job.serve, job.name, parts.recipe, shipment)
                stack.enter_context(replicas.served(*about, port, self._wait, self.say))
            try:
                summary = self._see_through(warm_from, max_events, progress)
                return self._close(summary)
            except JobError:  # nothing was begun
                raise
            except Exception as error:
                self._ended("FAILED")
                if isinstance(error, RunError):
                    raise
                raise RunError(  # a defect: the checkpoints are there all the same
                    f"{type(error).__name__}: {one_line(error)} (details: {self.folder.log()}). "
                    "The checkpoints are kept; go on with the same command and --resume"
                ) from error

    def _take(self, token: str, resume: bool) -> None:
        """Marks the folder as ours; from now on the trainer holds it. Where a run goes on, the one
        of a driver that was killed may still be dying."""
        deadline = time.monotonic() + (actors.HELD_S if resume else 0.0)
        while True:
            try:
                with self.folder.lock():
                    self.folder.check(resume)
                    self.folder.claim(token, resume)
                return
            except FolderLockedError:
                if self.stopping or time.monotonic() >= deadline:
                    raise
                time.sleep(TURN_S)

    @property
    def _evaluates(self) -> bool:
        """Whether there is anything to score beside the training."""
        job = self.loaded.job
        return job.serve is not None or job.evaluate.reevaluates_events

    def _cpus(self) -> float:
        job = self.loaded.job
        unwanted = {"evaluator": not self._evaluates, "tracker": job.track is None}
        wanted = sum(cpus for name, cpus in CPUS.items() if not unwanted.get(name))
        wanted += CPUS["source"] * (len(self._sources) - 1)
        return wanted + (0 if job.serve is None else replicas.CPUS * job.serve.replicas)

    def _start(self, parts: Parts, shipment: JobPackage, token: str) -> None:
        job, folder = self.loaded.job, self.folder.path
        gpus = {} if job.device == "cpu" else {"num_gpus": 1}
        start = self._start_one
        for name in self._sources:
            start(name, SourceActor, shipment, self.rate)
        start("trainer", self.trainer, shipment, folder, token, max_concurrency=64, **gpus)
        if self._evaluates:
            # Labels that a slow evaluator leaves waiting must not fill the object store.
            about = (job.name, parts.recipe, folder, shipment, job.evaluate.reevaluates_events)
            start("evaluator", actors.EvaluatorActor, *about, max_pending_calls=100)
        if job.track is not None:
            # The tracker may stand in another folder, or on another machine.
            config = job.track.model_copy(update={"uri": absolute(job.track.uri)})
            params, tagged = describe(self.loaded.values()), tags(self.loaded.folder)
            told = (config, folder, job.name, params, tagged)
            start("tracker", actors.TrackerActor, *told, max_concurrency=2)
        for name, actor in self._actors.items():
            ready = actor.__ray_ready__.remote()
            self._wait(partial(_come, ready), name)
            try:
                ray.get(ready)
            except RayError as error:
                raise _not_started(name, error) from None

    def _start_one(self, name: str, cls: type[Any], *made_with: Any, **more: Any) -> None:
        options = {
            "name": name,
            "num_cpus": CPUS[name.partition("-")[0]],
            "max_restarts": -1,
            **more,
        }
        try:
            self._actors[name] = ray.remote(cls).options(**options).remote(*made_with)
        except ValueError as error:  # the name is taken
            raise JobError(
                f"a run of job {self.loaded.job.name!r} is going on in this cluster already: stop "
                f"it, or give the job another name ({one_line(error)})"
            ) from None

    def _wait(self, done: Callable[[], bool], name: str) -> None:
        """Until it is up. Raises ``JobError`` where the run is to stop before."""
        told = time.monotonic() + PATIENCE_S
        while not done():
            if self.stopping:
                raise JobError("stopped before anything was started")
            if time.monotonic() > told:
                told = float("inf")
                self.say(f"waiting for the cluster to have room for the {name}")

    def _see_through(
        self, warm_from: Path | None, max_events: int | None, progress: LiveProgress
    ) -> dict[str, Any]:
        """Has the trainer run to its end, however often it dies on the way."""
        trainer = self._actors["trainer"]
        others = [self._actors.get(name) for name in ("evaluator", "tracker")]
        sources = [self._actors[name] for name in self._sources]
        what = (sources, *others, warm_from, max_events, self.record)
        checkpoints = Checkpoints(self.folder.checkpoints, 1, self.say)
        running = trainer.run.remote(*what)
        serves = self.loaded.job.serve is not None
        looking = ActorPoller(self._actors, self.say, progress, serves)
        deaths, last = 0, checkpoints.all()[-1:]
        while True:
            done, _ = ray.wait([running], timeout=TURN_S)
            looking.look()
            if self.stopping and not self._asked:
                self._asked = True
                trainer.stop.remote()
            if not done:
                continue
            try:
                summary: dict[str, Any] = ray.get(running)
                looking.listen()
                return summary
            except RayTaskError as error:
                looking.listen()
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
                self._asked = False
                self._wait_again("trainer", error)
                running = trainer.run.remote(*what)

    def _wait_again(self, name: str, died: RayError) -> None:
        """Until Ray has started the actor again, which may take another machine."""
        told = time.monotonic() + 2 * PATIENCE_S
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
                if time.monotonic() > told:
                    told = float("inf")
                    self.say(f"waiting for the cluster to have room for the {name} again")
                time.sleep(TURN_S)
        raise RunError(
            f"stopped while the {name} was down ({one_line(died)}). Its checkpoints are kept; go "
            "on with the same command and --resume"
        )

    def _close(self, summary: dict[str, Any]) -> dict[str, Any]:
        if evaluator := self._actors.get("evaluator"):
            try:
                summary["metrics"] |= ray.get(evaluator.finish.remote(), timeout=2 * FINISH_S[1])
            except RayError as error:
                self.say(f"the last snapshots were not scored on their probes: {one_line(error)}")
            if self.loaded.job.serve is not None:
                time.sleep(2 * replicas.REPORT_S)  # what was answered last is being told
                with suppress(RayError):
                    written = evaluator.write.remote(summary["events"])
                    summary["metrics"] |= ray.get(written, timeout=10)
            with suppress(RayError):
                for said in ray.get(evaluator.lines.remote(), timeout=5):
                    self.say(said)
        self.folder.write_summary(summary)
        if self.loaded.job.track is not None:
            hang(self.folder.path, self.say)
        stopped = self.stopping and not summary["finished"]
        summary["mlflow_run_id"] = self._ended("KILLED" if stopped else "FINISHED")
        self.folder.write_summary(summary)
        return summary

    def _ended(self, status: Status) -> str | None:
        """Lets MLflow know; the id of the run there."""
        tracker = self._actors.get("tracker")
        if tracker is None:
            return None
        files = [self.folder.path / name for name in ARTIFACTS]
        for _ in range(3):  # it may be dying just now
            try:
                run_id: str | None = ray.get(tracker.close.remote(status, files), timeout=60)
                for said in ray.get(tracker.lines.remote(), timeout=5):
                    self.say(said)
                return run_id
            except RayTaskError as error:
                self.say(f"tracking: {one_line(_cause(error))}")
                return None
            except RayError:
                time.sleep(1)
        return None

    def _end(self) -> None:
        for actor in self._actors.values():
            with suppress(RayError, ValueError):
                ray.kill(actor, no_restart=True)


class ActorPoller:
    """Fetches what the actors say and where the trainer stands, without waiting for any of them."""

    def __init__(
        self, handles: dict[str, Any], say: Say, progress: LiveProgress, serves: bool
    ) -> None:
        self._handles = {k: v for k, v in handles.items() if not k.startswith("source")}
        self._say = say
        self._progress = progress
        self._serves = serves
        self._asked: dict[str, Any] = {}  # what was asked of each, and is not answered yet
        self._events = 0
        self._next = 0.0

    def look(self) -> None:
        for name, handle in self._handles.items():
            for said in self._answer(name, handle.lines) or ():
                self._say(said)
        standing = self._answer("standing", self._handles["trainer"].status)
        if standing is not None:
            self._events = standing["events"]
            self._progress.expect(standing["total"])
            if standing["metrics"]:
                self._progress.show(standing["events"], standing["metrics"])
        evaluator = self._handles.get("evaluator")
        if self._serves and evaluator is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0
            with suppress(RayError):
                evaluator.write.remote(self._events)

    def _answer(self, what: str, method: Any) -> Any:
        """What was asked for before, if it has come; then it is asked for anew."""
        asked = self._asked.get(what)
        if asked is not None and not ray.wait([asked], timeout=0)[0]:
            return None
        with suppress(RayError):  # where it died: of the one that is started again
            self._asked[what] = method.remote()
        with suppress(RayError):
            return None if asked is None else ray.get(asked)
        return None

    def listen(self) -> None:
        """The last words of all."""
        for name, handle in self._handles.items():
            for asked in (self._asked.pop(name, None), handle.lines.remote()):
                with suppress(RayError):
                    for said in [] if asked is None else ray.get(asked, timeout=2):
                        self._say(said)


def _come(reference: Any) -> bool:
    """Whether an answer has come, within a turn."""
    return bool(ray.wait([reference], timeout=TURN_S)[0])


def _cause(error: RayTaskError) -> Exception:
    """What was raised in the actor."""
    cause = error.cause
    if isinstance(cause, JobError | RunError | TrackError):
        return cause
    if isinstance(cause, Exception):
        return RunError(f"{type(cause).__name__}: {one_line(cause)}")
    return RunError(one_line(error))


def _not_started(name: str, error: RayError) -> JobError:
    said = str(error)
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, JobError):
        return JobError(f"{cause} (on the worker of the {name}: install it there)")
    if "No module named" in said:
        missing = said.split("No module named", 1)[1].splitlines()[0].strip(" '\".")
        return JobError(
            f"the {name} cannot start: module {missing!r} is not on the worker: install it on "
            "every machine of the cluster, or send it along (ray job submit --working-dir)"
        )
    return JobError(f"the {name} cannot start: {one_line(said.strip().splitlines()[-1])}")
