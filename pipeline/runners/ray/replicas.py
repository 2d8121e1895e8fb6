"""The server on Ray Serve: replicas that take the newest model while they answer."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from pipeline.config.errors import JobError
from pipeline.config.sections import ServeConfig
from pipeline.models.recipe import Recipe, load_encoders
from pipeline.models.snapshot import InferenceModel, Snapshot
from pipeline.models.threads import set_threads
from pipeline.runners.ray.job_package import JobPackage
from pipeline.runners.ray.snapshots import SnapshotFetcher
from pipeline.serving.answers import warm
from pipeline.serving.app import ModelHolder, create_app
from pipeline.serving.labels import label_producer
from pipeline.serving.scoring import PredictionLog
from streams.background_worker import BackgroundWorker
from streams.core.errors import one_line

CPUS = 0.1
"""That a replica requests from the scheduler."""
REPORT_S = 0.5
"""How often a replica sends its prediction log to the evaluator."""
RETRY_S = 0.2
MAX_UNREPORTED = 10_000
"""Requests whose logs a replica keeps while there is no evaluator; the oldest are dropped first."""
HEALTH_S = 2.0
"""How often Serve checks whether a replica is alive: after one died, requests may wait so long."""
MAX_ONGOING, MAX_QUEUED = 100, 1000
"""Requests that a replica handles at once, and that may wait; Serve refuses more with a 503."""

log = logging.getLogger(__name__)


class Replica:
    """Answer with the newest model, and report to the evaluator.

    Each snapshot is fetched and warmed in a thread of its own, beside the model in use, and swapped
    in between two requests.
    """

    def __init__(
        self, namespace: str, recipe: Recipe, package: JobPackage, config: ServeConfig
    ) -> None:
        loaded = package.unpack()
        set_threads(1)
        sys.setswitchinterval(0.0005)  # at most so long a request waits for a model being built
        labels = label_producer(loaded)
        self._namespace = namespace
        self._recipe = recipe
        self._encoders = load_encoders(recipe)
        self._models = ModelHolder()
        self._unreported: deque[PredictionLog] = deque(maxlen=MAX_UNREPORTED)
        record = self._unreported.append
        self.app = create_app(self._models, recipe, config, namespace, labels, record)
        self._trainer: Any = None
        self._mark = ""  # of the newest snapshot that was fetched
        self._snapshots = SnapshotFetcher()
        self._logs: list[PredictionLog] = []
        self._failed_reported = 0
        self._fetcher = BackgroundWorker("fetch", self._fetch)
        self._reporter = BackgroundWorker("report", self._report, REPORT_S)
        self._fetcher.start()
        self._reporter.start()

    def _fetch(self) -> None:
        """Wait for the next snapshot, and serve it."""
        try:
            self._trainer = self._trainer or ray.get_actor("trainer", self._namespace)
            newer = ray.get(self._trainer.snapshot.remote(self._mark, 1.0), timeout=10)
            if newer is None:
                return
            self._mark, reference = newer
            snapshot = self._snapshots.get(reference)
        except (RayError, ValueError):  # no trainer just now: the present model is served on
            self._trainer = None
            self._fetcher.wait(RETRY_S)
            return
        self._swap(snapshot)

    def _swap(self, snapshot: Snapshot) -> None:
        current = self._models.current
        if current is not None and snapshot.events < current.events:
            return  # a restarted trainer has not caught up yet with what is served
        try:
            model = InferenceModel(self._recipe, snapshot, self._encoders)
            warm(model)
            if current is None:
                gc.freeze()  # all that is loaded: to scan it again would delay requests
            self._models.current = model
        except Exception:  # a user's class may raise anything: the model before it is served on
            log.exception("the newest model cannot be served; the one before it is")

    def _report(self) -> None:
        """Send the predictions since the last report to the evaluator."""
        self._logs += [self._unreported.popleft() for _ in range(len(self._unreported))]
        self._logs, failed = self._logs[-MAX_UNREPORTED:], self._models.failed
        if not self._logs and failed == self._failed_reported:
            return
        with suppress(RayError, ValueError):  # no evaluator just now: sent with the next
            evaluator = ray.get_actor("evaluator", self._namespace)
            whole = PredictionLog.concat(self._logs, failed - self._failed_reported)
            ray.get(evaluator.answered.remote(whole), timeout=60)
            self._logs, self._failed_reported = [], failed


@contextmanager
def deploy(
    config: ServeConfig,
    name: str,
    recipe: Recipe,
    package: JobPackage,
    port: socket.socket | None,
    wait: Callable[[Callable[[], bool], str], None],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Serve the model while the context is open. Other applications on the cluster are left alone.

    Args:
        config: the job's ``serve``.
        name: the job's.
        recipe: of the model.
        package: the job, with the modules that the model needs.
        port: reserved for the server, on a Ray of our own; None on a cluster.
        wait: waits for a condition; its second argument says what for.
        say: prints where the server is.

    Raises:
        JobError: the model cannot be served.
    """
    on_cluster = port is None
    starts_serve = not _is_serve_running()
    number = config.port if port is None else port.getsockname()[1]
    route = config.route or (f"/{name}" if on_cluster else "/")
    http = HTTPOptions(host=config.host, port=number) if starts_serve else None
    application = partial(_application, config, name, recipe, package)
    if port is not None:
        port.close()  # until now nobody else could take it
    try:
        deployed = _deploy_in_thread(application, name, route, http)
        wait(lambda: _is_done(deployed), "server")
        try:
            deployed.result()
        except Exception as error:  # of Ray, Serve or uvicorn
            raise JobError(f"serve: the model cannot be served: {one_line(error)}") from None
        host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
        where = f"http://{host}:{number}" if starts_serve else "the server of this cluster, "
        say(f"serving at {where}{route.rstrip('/')}/predict (see /docs there)")
        yield
    finally:
        with suppress(Exception):  # whatever is wrong with Serve, the run has ended
            serve.delete(name)
            if on_cluster and starts_serve and not serve.status().applications:
                serve.shutdown()


def _application(config: ServeConfig, name: str, recipe: Recipe, package: JobPackage) -> Any:
    """Return the Serve application of a job's replicas."""

    def build_app() -> Any:
        return Replica(name, recipe, package, config).app

    deployment = serve.deployment(
        name="model",
        num_replicas=config.replicas,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        health_check_period_s=HEALTH_S,
        ray_actor_options={"num_cpus": CPUS},
        logging_config=_logging(),
    )
    return deployment(serve.ingress(build_app)()).bind()


def _deploy_in_thread(
    build: Callable[[], Any], name: str, route: str, http: HTTPOptions | None
) -> Future[Any]:
    """Run the application of Serve that ``build`` returns; start Serve where ``http`` is given.

    Return the future that is done once it runs or has failed.
    """
    deployed: Future[Any] = Future()
    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    def run() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # parts of Ray warn of other parts
                if http is not None:
                    serve.start(http_options=http, logging_config=_logging())
                handle = serve.run(
                    build(), name=name, route_prefix=route, logging_config=_logging()
                )
            deployed.set_result(handle)
        except BaseException as error:
            deployed.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return deployed


def _logging() -> LoggingConfig:
    return LoggingConfig(enable_access_log=False, log_level="WARNING")


def _is_done(future: Future[Any]) -> bool:
    time.sleep(0.05)
    return future.done()


def _is_serve_running() -> bool:
    """Return whether Serve runs on this cluster already."""
    with suppress(ValueError):
        ray.get_actor("SERVE_CONTROLLER_ACTOR", "serve")
        return True
    return False
