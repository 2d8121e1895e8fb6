"""Processes that work side by side, and that nothing leaves behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.bench.processes import ProcessDiedError, in_processes

ROOT = Path(__file__).parents[2]


def workers(pid: int | None = None) -> list[psutil.Process]:
    """Processes that were begun to work for one; of others, as those that keep count, none."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_in_processes_yields_in_order_of_completion() -> None:
    assert sorted(in_processes(math.sqrt, [9.0, 4.0, 16.0], 2)) == [2.0, 3.0, 4.0]
    assert not workers()


def test_in_processes_error_of_one_item_ends_all() -> None:
    began = time.monotonic()
    with pytest.raises(TypeError):
        list(in_processes(time.sleep, [100.0, "x"], 2))
    assert time.monotonic() - began < 50
    assert not workers()


def test_in_processes_reports_a_worker_that_dies() -> None:
    with pytest.raises(ProcessDiedError, match="fewer --workers"):
        list(in_processes(os._exit, [3], 1))
    assert not workers()


def test_in_processes_closed_early_ends_its_workers() -> None:
    going = in_processes(time.sleep, [0.0, 100.0], 2)
    next(going)
    assert workers()
    began = time.monotonic()
    going.close()
    assert time.monotonic() - began < 50
    assert not workers()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("begun", [False, True], ids=["starting", "working"])
def test_in_processes_workers_end_with_their_parent(number: signal.Signals, begun: bool) -> None:
    program = (
        "import time; from pipeline.bench.processes import in_processes\n"
        "if __name__ == '__main__':\n"
        "    for _ in in_processes(time.sleep, [0, 0, 100, 100], 2): print(1, flush=True)\n"
    )
    one = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert one.stdout is not None
    assert one.stderr is not None
    if begun:
        one.stdout.readline()
    processes = []
    while len(processes) < 2:
        time.sleep(0.02)  # a wait without it takes the core that they need to start
        processes = workers(one.pid)
    if number == signal.SIGINT:
        os.killpg(one.pid, number)  # as a terminal does
    else:
        one.send_signal(number)
    one.wait(60)
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    assert one.returncode == -number
    errors = one.stderr.read()
    one.stdout.close()
    one.stderr.close()
    # This one says where it was, as Python does; the others say nothing, but for one that was not
    # yet told what to do: Python itself says that of it, before anything of ours runs.
    untold = 0 if begun else errors.count("EOFError: Ran out of input")
    assert errors.count("Traceback") - untold == (number == signal.SIGINT), errors
