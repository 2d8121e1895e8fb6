"""Runs on Ray in processes of their own, to be watched and killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180.0  # on a machine with much else to do a cluster takes a minute to come up
ACTORS = {
    "source": "ray::SourceActor",
    "trainer": "ray::TrainerActor",
    "evaluator": "ray::EvaluatorActor",
    "tracker": "ray::TrackerActor",
    "replica": "ray::ServeReplica:",
}


def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Waits for a condition, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
    return found


class Driver:
    """A command of ours in a process and session of its own; what it says goes to files."""

    def __init__(
        self, place: Place, *command: object, cwd: Path = ROOT, **environment: str
    ) -> None:
        self.place = place
        self._out, self._err = (place.path / f"{place.count}.{n}" for n in ("out", "err"))
        place.count += 1
        place.drivers.append(self)
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={**place.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def line(self) -> str:
        """The last line on standard error."""
        return (self.err.strip().splitlines() or [""])[-1]

    @property
    def lines(self) -> list[str]:
        """All of them, but for what it says as long as a slow cluster comes up."""
        waiting = "waiting for the cluster to have room"
        return [line for line in self.err.splitlines() if waiting not in line]

    def running(self) -> bool:
        return self.process.poll() is None

    def says(self, pattern: str, seconds: float = PATIENCE_S) -> re.Match[str]:
        """Waits until it has said that."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.err)):
            assert self.running(), self.err
            assert time.monotonic() < deadline, self.err
            time.sleep(0.05)
        return found

    def ends(self, code: int = 0, seconds: float = 120.0) -> Driver:
        """Waits for its end, with that exit status, and no stack trace."""
        try:
            found = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.err}") from None
        assert found == code, (found, self.err, self.out)
        assert "Traceback" not in self.err + self.out
        return self

    def actor(self, name: str) -> psutil.Process | None:
        """The process of one of its actors, where it is up."""
        return next(iter(self.place.processes(ACTORS[name])), None)

    def kill(self) -> None:
        """As ``kill -9`` of it alone."""
        self.process.kill()
        self.process.wait(10)


class Place:
    """Where runs are: a folder with a short path (that of a socket is limited), and what the
    processes of these runs are known by. When it is closed nothing of either is left."""

    def __init__(self, **environment: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ev", dir="/tmp"))
        self.count = 0
        self.drivers: list[Driver] = []
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "COV_"))}
        self.environment = inherited | {
            "HOME": str(self.path),
            "RAY_TMPDIR": str(self.path),
            "RAY_USAGE_STATS_ENABLED": "0",
            "COLUMNS": "200",
            **environment,
        }

    def processes(self, title: str = "") -> list[psutil.Process]:
        """All that belong to runs here: by their session, or the folder in what they were given,
        which one that has taken a title may no longer show."""
        sessions = {driver.process.pid for driver in self.drivers}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                command = " ".join(process.cmdline())
                ours = os.getsid(process.pid) in sessions or str(self.path) in command
                ours = ours or process.environ().get("RAY_TMPDIR") == str(self.path)
                alive = process.status() != psutil.STATUS_ZOMBIE
                if ours and alive and command.startswith(title):
                    found.append(process)
        return found

    def close(self) -> None:
        while left := self.processes():
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=10)
        for driver in self.drivers:
            driver.process.wait(10)
        shutil.rmtree(self.path, ignore_errors=True)

    def run(self, job: Path, folder: Path, *more: object, **environment: str) -> Driver:
        """Runs a job on Ray."""
        command = (sys.executable, "-m", "pipeline", "run", job, "--run-dir", folder)
        return Driver(self, *command, "--runner", "ray", *more, **environment)

    def left(self) -> list[str]:
        """Processes that are still there a moment after the end."""
        deadline = time.monotonic() + 10
        while (found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [" ".join(process.cmdline()) for process in found]
