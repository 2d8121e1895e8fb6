"""Connect to a Ray cluster, or start a Ray of our own for as long as a run lasts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError

from pipeline.config.errors import JobError
from streams.core.errors import one_line

REACH_S = 5.0
"""How long a cluster may take to accept a connection."""


@contextmanager
def ray_session(address: str | None, namespace: str, cpus: float, log: Path) -> Iterator[None]:
    """Connect to Ray while the block runs; a Ray of our own ends with it.

    Args:
        address: of a cluster; None starts a Ray on this machine.
        namespace: of the actors.
        cpus: that the actors ask for; a Ray of our own has at least as many, whatever the machine.
        log: takes what Ray prints.

    Raises:
        JobError: there is no Ray to connect to, or it is too small.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run reports to nobody
    options: dict[str, Any] = {
        "namespace": namespace,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if address is None:
        cores = max(os.cpu_count() or 1, int(cpus) + 1)
        options |= {"address": "local", "include_dashboard": False, "num_cpus": cores}
    else:
        _check_address(address)
        options["address"] = address
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(int(REACH_S)))
    with log.open("a") as opened, redirect_stdout(opened):
        try:
            with warnings.catch_warnings(), _own_signals():
                warnings.simplefilter("ignore")
                ray.init(**options)
        except AuthenticationError as error:
            raise _no_token(address, one_line(error)) from None
        except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            if "AuthenticationError" in str(error.__cause__):  # Ray tried again, and gave up
                raise _no_token(address, "it has been refused") from None
            where = "a local Ray cannot be started" if address is None else f"no Ray at {address}"
            raise JobError(f"{where}: {one_line(error)}") from None
        try:
            _check_cpus(cpus)
            yield
        finally:
            ray.shutdown()


def free_port(host: str, port: int) -> socket.socket:
    """Return a socket that reserves the port (0: a free one) until it is closed.

    Raises ``JobError`` where nothing can listen there.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise JobError(
            f"serve: nothing can listen at {host}:{port} ({error.strerror}): choose another with "
            "--set serve.port=…, or 0 for one that is free"
        ) from None
    return bound


def _check_address(address: str) -> None:
    """Raise ``JobError`` where nothing listens at the address of a cluster."""
    if address.startswith("ray://"):
        raise JobError(
            f"--address {address}: everlearn runs inside a cluster: submit it (ray job submit), or "
            "give the address of its head, as in 10.0.0.1:6379"
        )
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise JobError(
            f"--address (or RAY_ADDRESS) {address}: HOST:PORT of the head of a Ray cluster is "
            "wanted, as in 10.0.0.1:6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise JobError(
            f"no Ray cluster can be reached at {address} ({one_line(error)}): start one there (ray "
            "start --head), or leave out --address and RAY_ADDRESS for a Ray on this machine"
        ) from None


def _check_cpus(cpus: float) -> None:
    """Raise ``JobError`` where the cluster has fewer CPUs."""
    have = ray.cluster_resources().get("CPU", 0.0)
    if have < cpus:
        raise JobError(
            f"the job asks for {cpus:.1f} CPUs, and the Ray cluster has {have:g}: add machines, or "
            "start it with more (--num-cpus)"
        )


def _no_token(address: str | None, why: str) -> JobError:
    return JobError(
        f"the Ray cluster at {address or 'this machine'} asks for a token: set RAY_AUTH_MODE=token "
        f"and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to that of the cluster ({why})"
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM: Ray's own for SIGTERM exits at once, without a
    checkpoint."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)
