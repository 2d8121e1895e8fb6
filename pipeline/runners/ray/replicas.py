"""The server on Ray Serve: replicas that take up the newest model while they answer."""

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
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from pipeline.config.errors import JobError
from pipeline.config.sections import ServeConfig
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import InferenceModel
from pipeline.runners.ray.job_package import JobPackage
from pipeline.serving.app import Answered, Models, create_app, warm
from pipeline.serving.labels import posted
from pipeline.serving.scoring import PredictionLog
from streams.core.errors import one_line
from streams.operators.label_join import NONE

CPUS = 0.1
"""That a replica asks of the scheduler."""
REPORT_S = 0.5
"""How often what was answered is told."""
RETRY_S = 0.2
UNTOLD = 10_000
"""Answers that a replica keeps while there is no evaluator to tell; the oldest go first."""
HEALTH_S = 2.0
"""How often Serve looks whether a replica is alive: so long nobody may answer after one died."""
AT_ONCE, QUEUED = 100, 1000
"""Requests that a replica takes at once, and that may wait; what is more is refused with a 503."""

log = logging.getLogger(__name__)


class Replica:
    """Answers with the newest model: fetches and warms each snapshot in a thread of its own, beside
    the one in use, and swaps between two requests. Tells the evaluator what it answered."""

    def __init__(
        self, namespace: str, made: Recipe, shipment: JobPackage, config: ServeConfig
    ) -> None:
        torch.set_num_threads(1)
        sys.setswitchinterval(0.0005)  # a request waits so long, at most, for a model being built
        labels = posted(shipment.unpack())
        self._namespace = namespace
        self._recipe = made
        self._models = Models()
        self._answered: deque[Answered] = deque(maxlen=UNTOLD)
        told = self._answered.append
        self.app = create_app(self._models, made, config, namespace, labels, told)
        for work in (self._fetch, self._tell):
            threading.Thread(target=work, daemon=True).start()

    def _fetch(self) -> None:
        mark, trainer = "", None
        while True:
            try:
                trainer = trainer or ray.get_actor("trainer", self._namespace)
                found = ray.get(trainer.snapshot.remote(mark, 1.0), timeout=10)
                if found is None:
                    continue
                mark, (reference,) = found
                snapshot = ray.get(reference, timeout=10)
            except (RayError, ValueError):  # no trainer just now: the model at hand is served on
                trainer = None
                time.sleep(RETRY_S)
                continue
            current = self._models.current
            if current is not None and snapshot.events < current.events:
                continue  # a trainer that was started again catches up with what is served
            try:
                servable = InferenceModel(self._recipe, snapshot)
                warm(servable)
                if current is None:
                    gc.freeze()  # all that is loaded: to go over it again would hold requests up
                self._models.current = servable
            except Exception:  # a class of a user's may raise anything: it serves on, and says so
                log.exception("the newest model cannot be served; the one before it is")

    def _tell(self) -> None:
        told: list[Answered] = []
        failed = 0  # of those that were told
        while True:
            time.sleep(REPORT_S)
            told += [self._answered.popleft() for _ in range(len(self._answered))]
            told, now = told[-UNTOLD:], self._models.failed
            if not told and now == failed:
                continue
            answers = PredictionLog(
                np.concatenate([a.ids for a in told] or [NONE]),
                np.concatenate([a.value for a in told] or [NONE]),
                np.concatenate([np.full(len(a.ids), a.version) for a in told] or [NONE]),
                np.array([a.age for a in told]),
                np.array([a.seconds for a in told]),
                now - failed,
            )
            with suppress(RayError, ValueError):  # no evaluator just now: told with the next
                evaluator = ray.get_actor("evaluator", self._namespace)
                ray.get(evaluator.answered.remote(answers), timeout=60)
                told, failed = [], now


@contextmanager
def served(
    config: ServeConfig,
    name: str,
    made: Recipe,
    shipment: JobPackage,
    port: socket.socket | None,
    wait: Callable[[Callable[[], bool], str], None],
    say: Callable[[str], None],
) -> Iterator[None]:
    """While open, the model answers; where others serve on the same cluster, they go on.

    Args:
        config: the job's ``serve``.
        name: the job's.
        made: recipe of the model.
        shipment: the job, with the modules that the model needs.
        port: held for us, on a Ray of our own; None on a cluster.
        wait: for a condition, saying what for.
        say: is told where the server is.

    Raises ``JobError`` where the model cannot be served.
    """
    joined = port is None
    ours = not _serving()
    number = config.port if port is None else port.getsockname()[1]
    route = config.route or (f"/{name}" if joined else "/")
    arguments = (name, made, shipment, config)

    def build_app() -> Any:
        return Replica(*arguments).app

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    deploying: Future[Any] = Future()

    def deploy() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if ours:
                    http = HTTPOptions(host=config.host, port=number)
                    serve.start(http_options=http, logging_config=quiet)
                deployment = serve.deployment(
                    name="model",
                    num_replicas=config.replicas,
                    max_ongoing_requests=AT_ONCE,
                    max_queued_requests=QUEUED,
                    health_check_period_s=HEALTH_S,
                    ray_actor_options={"num_cpus": CPUS},
                    logging_config=quiet,
                )(serve.ingress(build_app)())
                made_of = deployment.bind()
                deploying.set_result(
                    serve.run(made_of, name=name, route_prefix=route, logging_config=quiet)
                )
        except BaseException as error:
            deploying.set_exception(error)

    if port is not None:
        port.close()  # until now nobody else could take it
    try:
        threading.Thread(target=deploy, daemon=True).start()
        wait(lambda: _ended(deploying), "server")
        try:
            deploying.result()
        except Exception as error:  # of Ray, Serve or uvicorn
            raise JobError(f"serve: the model cannot be served: {one_line(error)}") from None
        host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
        where = f"http://{host}:{number}" if ours else "the server of this cluster, "
        say(f"serving at {where}{route.rstrip('/')}/predict (see /docs there)")
        yield
    finally:
        with suppress(Exception):  # whatever is wrong with Serve, the run has ended
            serve.delete(name)
            if joined and ours and not serve.status().applications:
                serve.shutdown()


def _ended(deploying: Future[Any]) -> bool:
    time.sleep(0.05)
    return deploying.done()


def _serving() -> bool:
    """Whether Serve runs on this cluster already."""
    with suppress(ValueError):
        ray.get_actor("SERVE_CONTROLLER_ACTOR", "serve")
        return True
    return False
