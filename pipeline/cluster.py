"""The Ray runner: connects, starts the actors, sees them through, and leaves nothing behind.

The driver is the only one that ends actors, and none outlives it. Ray starts an actor that died
again; the driver then has the trainer go on from its newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, AuthenticationError, RayError, RayTaskError

from learners.learner import line
from pipeline import actors
from pipeline.build import Parts, build
from pipeline.checkpoint import Checkpoints
from pipeline.folder import RunFolder
from pipeline.job import JobError, LoadedJob, flat
from pipeline.mlflow_run import absolute
from pipeline.progress import LiveProgress
from pipeline.run import RunError, Say
from pipeline.servable import ServeConfig
from pipeline.ship import Shipment
from pipeline.track import TrackError, check, describe, tags

TURN_S = 0.25
"""How often the driver looks after the actors."""
REACH_S = 5.0
"""How long a cluster may take to accept a connection."""
DEATHS = 3
"""A trainer that dies so often without a new checkpoint is given up."""
HEALTH_S = 1.0
"""How often Serve looks after its replicas: requests wait for so long when the only one dies."""
SHARES = {"trainer": 1.0, "source": 0.5, "evaluator": 0.1, "tracker": 0.1, "replica": 0.1}
"""CPUs that each actor asks of the scheduler."""


class RayRun:
    """One run of a job on Ray.

    Args:
        loaded: the job.
        folder: the run folder; on a cluster, on storage that all machines see.
        say: takes lines for a person.
        address: of a cluster; None starts a Ray of its own on this machine.
        rate: events a second that are read at most; None: as fast as they come.

    Attributes:
        trainer: the class of the trainer.
    """

    trainer: type[actors.TrainerActor] = actors.TrainerActor

    def __init__(
        self,
        loaded: LoadedJob,
        folder: Path,
        say: Say,
        address: str | None = None,
        rate: float | None = None,
    ) -> None:
        self.loaded = loaded
        self.folder = RunFolder(folder.resolve())
        self.say = say
        self.address = address
        self.rate = rate
        self.stopping = False
        self._asked = False  # the trainer was asked to stop
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
        loaded, job = self.loaded, self.loaded.job
        parts = build(loaded)  # what is wrong with the job is found here, before anything starts
        shipment = Shipment.of(loaded)
        if job.track is not None:
            with _as_job_error():
                check(job.track)
        with self.folder.held():  # nobody else has it; the trainer will
            self.folder.check(resume)
        # On a cluster the port is on other machines, and may be shared.
        alone = self.address is None
        port = None if job.serve is None or not alone else _free_port(job.serve)
        warm_from = None if warm_from is None else warm_from.resolve()
        with ExitStack() as stack:
            stack.enter_context(self._ray_log())
            stack.enter_context(self._connected())
            self._start(parts, shipment)
            stack.callback(self._end)
            if job.serve is not None:
                stack.enter_context(self._served(job.serve, port, parts, shipment))
            try:
                summary = self._see_through(resume, warm_from, max_events, progress)
                return self._close(summary)
            except (JobError, RunError):
                raise
            except Exception as error:  # a defect: the checkpoints are there all the same
                raise RunError(
                    f"{type(error).__name__}: {line(error)} (details: {self.folder.log()}). The "
                    "checkpoints are kept; go on with the same command and --resume"
                ) from error

    @contextmanager
    def _ray_log(self) -> Iterator[None]:
        """Ray prints what it notices, at length; what matters of it is said in one line by whoever
        acts on it, and the rest goes to a file."""
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            log = (self.folder.path / "ray.log").open("a")
        except OSError as error:
            raise JobError(
                f"cannot write in {self.folder.path}: {error.strerror}; choose another --run-dir"
            ) from None
        with log, redirect_stdout(log):
            yield

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """A connection to the cluster, or to a Ray of our own, which ends with it."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of a run
        address = self.address
        if address is not None:
            _reach(address)
        options: dict[str, Any] = {
            "namespace": self.loaded.job.name,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
        }
        if address is None:
            # Actors ask for shares of cores so that a machine of one or two can hold them all.
            cores = max(os.cpu_count() or 1, 2 + (self._replicas() > 1) * self._replicas())
            options |= {"address": "local", "include_dashboard": False, "num_cpus": cores}
        else:
            options["address"] = address
        try:
            with warnings.catch_warnings(), _own_signals():
                warnings.simplefilter("ignore")
                ray.init(**options)
        except AuthenticationError as error:
            raise JobError(
                f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token and "
                f"RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) ({line(error)})"
            ) from None
        except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = "a local Ray cannot be started" if address is None else f"no Ray at {address}"
            raise JobError(f"{where}: {line(error)}") from None
        try:
            yield
        finally:
            ray.shutdown()

    def _replicas(self) -> int:
        return 0 if self.loaded.job.serve is None else self.loaded.job.serve.replicas

    def _start(self, parts: Parts, shipment: Shipment) -> None:
        job, folder = self.loaded.job, self.folder.path
        wanted: dict[str, tuple[type[Any], tuple[Any, ...], dict[str, Any]]] = {
            "source": (actors.SourceActor, (shipment, self.rate), {}),
            "trainer": (self.trainer, (shipment, folder), {"max_concurrency": 64}),
        }
        if job.serve is not None:
            task = parts.stream.schema.task
            wanted["evaluator"] = (actors.EvaluatorActor, (task, folder), {})
        if job.track is not None:
            params = describe(flat(job.model_dump(mode="json", serialize_as_any=True)))
            # The tracker may stand in another folder, or on another machine.
            config = job.track.model_copy(update={"uri": absolute(job.track.uri)})
            about = (config, folder, job.name, params, tags(self.loaded.folder))
            wanted["tracker"] = (actors.TrackerActor, about, {"max_concurrency": 2})
        if job.device != "cpu":
            wanted["trainer"][2]["num_gpus"] = 1
        _enough(sum(SHARES[name] for name in wanted) + SHARES["replica"] * self._replicas())
        for name, (cls, made_with, more) in wanted.items():
            options = {"name": name, "num_cpus": SHARES[name], "max_restarts": -1, **more}
            try:
                self._actors[name] = ray.remote(cls).options(**options).remote(*made_with)
            except ValueError as error:  # the name is taken
                raise JobError(
                    f"a run of job {job.name!r} is going on in this cluster already: stop it, or "
                    f"give the job another name ({line(error)})"
                ) from None
        for name, actor in self._actors.items():
            ready, told = actor.__ray_ready__.remote(), time.monotonic() + 15.0
            while not ray.wait([ready], timeout=TURN_S)[0]:
                if self.stopping:
                    raise JobError("stopped before anything was started")
                if time.monotonic() > told:
                    told = float("inf")
                    self.say(f"waiting for the cluster to have room for the {name}")
            try:
                ray.get(ready)
            except RayError as error:
                raise _not_started(name, error) from None

    @contextmanager
    def _served(
        self, config: ServeConfig, port: int | None, parts: Parts, shipment: Shipment
    ) -> Iterator[None]:
        """The model, answering; where others serve on the same cluster, they go on."""
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig

        name, joined = self.loaded.job.name, port is None
        shared = joined and _serving()
        port = config.port if port is None else port
        route = config.route or (f"/{name}" if joined else "/")
        arguments = (name, parts.recipe, shipment, config)

        def build_app() -> Any:
            return actors.Replica(*arguments).app

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not shared:
                http = HTTPOptions(host=config.host, port=port)
                serve.start(http_options=http, logging_config=quiet)
            deployment = serve.deployment(
                name="model",
                num_replicas=config.replicas,
                max_ongoing_requests=100,
                health_check_period_s=HEALTH_S,
                ray_actor_options={"num_cpus": SHARES["replica"]},
                logging_config=quiet,
            )(serve.ingress(build_app)())
            try:
                serve.run(deployment.bind(), name=name, route_prefix=route, logging_config=quiet)
            except (RayError, RuntimeError, ValueError) as error:
                raise JobError(f"serve: the model cannot be served: {line(error)}") from None
        host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
        where = "the server of this cluster, " if shared else f"http://{host}:{port}"
        self.say(f"serving at {where}{route.rstrip('/')}/predict (see /docs there)")
        try:
            yield
        finally:
            with suppress(Exception):  # whatever is wrong with Serve, the run has ended
                serve.delete(name)
                if not serve.status().applications:
                    serve.shutdown()

    def _see_through(
        self,
        resume: bool,
        warm_from: Path | None,
        max_events: int | None,
        progress: LiveProgress,
    ) -> dict[str, Any]:
        """Has the trainer run to its end, however often it dies on the way."""
        trainer = self._actors["trainer"]
        others = [self._actors.get(name) for name in ("source", "evaluator", "tracker")]
        checkpoints = Checkpoints(self.folder.checkpoints, 1, self.say)
        running = trainer.run.remote(*others, resume, warm_from, max_events)
        looking = _Looking(self._actors, self.say, progress)
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
                cause = _cause(error)
                if not isinstance(cause, JobError):  # with one of these nothing was begun
                    self._ended("FAILED")
                raise cause from None
            except RayError as error:
                now = checkpoints.all()[-1:]
                deaths = deaths + 1 if now == last else 1
                last = now
                if deaths > DEATHS:
                    self._ended("FAILED")
                    raise RunError(
                        f"the trainer died {deaths} times without getting any further: "
                        f"{line(error)}. Its checkpoints are kept; go on with --resume"
                    ) from None
                self.say("the trainer died; it goes on from its newest checkpoint")
                self._asked = False
                self._wait_for("trainer", error)
                running = trainer.run.remote(*others, True, warm_from, max_events, True)

    def _wait_for(self, name: str, died: RayError) -> None:
        """Until Ray has started the actor again, which may take another machine."""
        told = time.monotonic() + 30.0
        while not self.stopping:
            try:
                ray.get(self._actors[name].__ray_ready__.remote(), timeout=5)
                return
            except ActorDiedError as error:
                raise RunError(
                    f"the {name} died and does not start again: {line(error)}. Its checkpoints are "
                    "kept; go on with --resume"
                ) from None
            except RayError:
                if time.monotonic() > told:
                    told = float("inf")
                    self.say(f"waiting for the cluster to have room for the {name} again")
                time.sleep(TURN_S)
        raise RunError(
            f"stopped while the {name} was down ({line(died)}). Its checkpoints are kept; go on "
            "with the same command and --resume"
        )

    def _close(self, summary: dict[str, Any]) -> dict[str, Any]:
        if evaluator := self._actors.get("evaluator"):
            time.sleep(actors.REPORT_S)  # what was answered last is being told
            with suppress(RayError):
                summary["metrics"] |= ray.get(evaluator.write.remote(summary["events"]), timeout=10)
        self.folder.write_summary(summary)
        summary["mlflow_run_id"] = self._ended("FINISHED" if summary["finished"] else "KILLED")
        self.folder.write_summary(summary)
        return summary

    def _ended(self, status: str) -> str | None:
        """Lets MLflow know; the id of the run there."""
        tracker = self._actors.get("tracker")
        if tracker is None:
            return None
        files = [self.folder.path / name for name in ("summary.json", "dead.jsonl", "error.log")]
        for _ in range(3):  # it may be dying just now
            try:
                run_id: str | None = ray.get(tracker.close.remote(status, files), timeout=60)
                for said in ray.get(tracker.lines.remote(), timeout=5):
                    self.say(said)
                return run_id
            except RayTaskError as error:
                self.say(f"tracking: {line(_cause(error))}")
                return None
            except RayError:
                time.sleep(1)
        return None

    def _end(self) -> None:
        for actor in self._actors.values():
            with suppress(RayError, ValueError):
                ray.kill(actor, no_restart=True)


class _Looking:
    """Fetches what the actors say and where the trainer stands, without waiting for any of them."""

    def __init__(self, handles: dict[str, Any], say: Say, progress: LiveProgress) -> None:
        self._handles = {k: v for k, v in handles.items() if k != "source"}
        self._say = say
        self._progress = progress
        self._asked: dict[str, Any] = {}
        self._standing: Any = None
        self._writing: Any = None
        self._events = 0
        self._next = 0.0

    def look(self) -> None:
        for name, handle in self._handles.items():
            if name not in self._asked:
                self._asked[name] = handle.lines.remote()
            for said in _ready(self._asked[name], self._drop(name)) or ():
                self._say(said)
        if self._standing is None:
            self._standing = self._handles["trainer"].status.remote()
        standing = _ready(self._standing, self._stand_again)
        if standing is not None:
            self._events = standing["events"]
            self._progress.expect(standing["total"])
            if standing["metrics"]:
                self._progress.show(standing["events"], standing["metrics"])
        evaluator = self._handles.get("evaluator")
        if evaluator is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0
            evaluator.write.remote(self._events)

    def listen(self) -> None:
        """The last words of all."""
        for handle in self._handles.values():
            with suppress(RayError):
                for said in ray.get(handle.lines.remote(), timeout=2):
                    self._say(said)

    def _drop(self, name: str) -> Callable[[], None]:
        return lambda: self._asked.pop(name, None)

    def _stand_again(self) -> None:
        self._standing = None


def _ready(reference: Any, done: Callable[[], None]) -> Any:
    """What was asked for, if it is there; ``done`` is called where it is, or never will be."""
    if not ray.wait([reference], timeout=0)[0]:
        return None
    done()
    with suppress(RayError):
        return ray.get(reference)
    return None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Gives back SIGINT and SIGTERM to whoever had them: Ray takes SIGTERM, and would leave at once
    without a checkpoint."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)


@contextmanager
def _as_job_error() -> Iterator[None]:
    try:
        yield
    except TrackError as error:
        raise JobError(str(error)) from None


def _cause(error: RayTaskError) -> Exception:
    """What was raised in the actor."""
    cause = error.cause
    if isinstance(cause, JobError | RunError | TrackError):
        return cause
    if isinstance(cause, Exception):
        return RunError(f"{type(cause).__name__}: {line(cause)}")
    return RunError(line(error))


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
    return JobError(f"the {name} cannot start: {line(said.strip().splitlines()[-1])}")


def _reach(address: str) -> None:
    """Raises ``JobError`` where nothing listens at the address of a cluster."""
    if address.startswith("ray://"):
        raise JobError(
            f"--address {address}: everlearn runs inside a cluster: submit it (ray job submit), or "
            "give the address of its head, as in 10.0.0.1:6379"
        )
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise JobError(f"--address {address}: HOST:PORT of the head of a Ray cluster is wanted")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except OSError as error:
        raise JobError(
            f"no Ray cluster can be reached at {address} ({line(error)}): start one there (ray "
            "start --head), or leave out --address and RAY_ADDRESS for a Ray on this machine"
        ) from None


def _free_port(config: ServeConfig) -> int:
    """The port to serve at. Raises ``JobError`` where it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise JobError(
                f"serve: nothing can listen at {config.host}:{config.port} ({error.strerror}): "
                "choose another with --set serve.port=…, or 0 for one that is free"
            ) from None
        found: int = probe.getsockname()[1]
        return found


def _serving() -> bool:
    """Whether Serve runs on this cluster already."""
    with suppress(ValueError):
        ray.get_actor("SERVE_CONTROLLER_ACTOR", "serve")
        return True
    return False


def _enough(cpus: float) -> None:
    have = ray.cluster_resources().get("CPU", 0.0)
    if have < cpus:
        raise JobError(
            f"the job asks for {cpus:.1f} CPUs, and the Ray cluster has {have:g}: add machines, or "
            "start it with more (--num-cpus)"
        )
