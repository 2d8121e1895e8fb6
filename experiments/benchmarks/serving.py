"""Measure what a model swap costs a request, and how old the model is that answers.

Elec2 arrives at 1,000 events per second in the job of `elec2.yaml` on Ray, while a client sends 100
requests per second. For four seconds new models are published and swapped in, ten per second. For
the next four none is, while the training continues. The phases alternate within one run. Times are
those of the client.

    python experiments/benchmarks/serving.py [--events 45312] [--rate 1000]

Writes experiments/results/serving.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from pipeline.callbacks.progress import LiveProgress
from pipeline.callbacks.snapshot_publisher import SnapshotPublisher
from pipeline.config import job as jobs
from pipeline.runners.ray.actors import TrainerActor
from pipeline.runners.ray.driver import RayRunner
from pipeline.runners.ray.job_package import JobPackage
from pipeline.training.loop import Loop, StepResult

sys.path.append(str(Path(__file__).parents[1] / "demo"))

from client import Asked, Client, elec2_events

JOB = Path(__file__).parents[1] / "jobs" / "elec2.yaml"
RESULT = Path(__file__).parents[1] / "results" / "serving.md"
PHASE_S = 4.0
MARGIN_S = 0.5  # at the ends of a phase, left out: a snapshot may still be on its way


def publishing(now: float) -> bool:
    return int(now / PHASE_S) % 2 == 0


class InPhases(SnapshotPublisher):
    """Publish models in every other phase."""

    def on_batch_end(self, loop: Loop, result: StepResult) -> None:
        if publishing(time.time()):
            super().on_batch_end(loop, result)

    def on_idle(self) -> None:
        if publishing(time.time()):
            super().on_idle()


class PhasedTrainer(TrainerActor):
    def __init__(self, package: JobPackage, folder: Path, token: str) -> None:
        super().__init__(package, folder, token, InPhases())


class PhasedRun(RayRunner):
    trainer = PhasedTrainer


def split(asked: Asked, began: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the milliseconds of requests with swaps, and of those without."""
    when = began + np.array(asked.sent)
    took = np.array(asked.took) * 1000
    inside = (when % PHASE_S > MARGIN_S) & (when % PHASE_S < PHASE_S - MARGIN_S)
    with_swaps = np.array([publishing(t) for t in when.tolist()])
    return took[inside & with_swaps], took[inside & ~with_swaps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=45_312)
    parser.add_argument("--rate", type=float, default=1000.0)
    given = parser.parse_args()
    loaded = jobs.load(JOB, ["serve.port=8437"])
    client = Client("http://127.0.0.1:8437", 100, elec2_events(), pace=given.rate)
    began = 0.0

    def ask() -> None:
        nonlocal began
        if client.ready():
            began = time.time()
            client.start()

    with tempfile.TemporaryDirectory() as name:
        run = PhasedRun(loaded, Path(name) / "run", print, rate=given.rate)
        asking = threading.Thread(target=ask)
        asking.start()
        done = threading.Event()

        def stop_in_time() -> None:
            while not done.wait(0.1):
                if client.asked.sent and time.time() - began > given.events / given.rate - 4:
                    client.stop()
                    return

        stopping = threading.Thread(target=stop_in_time)
        stopping.start()
        run.run(False, None, given.events, LiveProgress(Console(stderr=True)))
        done.set()
        stopping.join()
        asking.join()
    asked = client.asked
    swaps, still = split(asked, began)

    def p(column: np.ndarray) -> str:
        return " | ".join(f"{value:.1f}" for value in np.percentile(column, (50, 90, 99)))

    lines = [
        "# What swapping models costs those who ask",
        "",
        f"Elec2 at {given.rate:,.0f} events/s on Ray, 100 requests/s of one event, phases of "
        f"{PHASE_S:g} s with and without swaps in one run, on 2 cores. Printed by `python "
        "experiments/benchmarks/serving.py`.",
        "",
        "| | requests | p50 ms | p90 ms | p99 ms |",
        "|---|---|---|---|---|",
        f"| with swaps | {len(swaps):,} | {p(swaps)} |",
        f"| without | {len(still):,} | {p(still)} |",
        "",
        f"Failed: {len(asked.failed)} of {len(asked.took) + len(asked.failed):,}. Versions that "
        f"answered: {len(set(asked.version))}.",
    ]
    print("\n".join(lines))
    RESULT.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
