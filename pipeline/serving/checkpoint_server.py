"""The newest model of a run folder, served in this process: of a run that is over, or goes on.

It only reads. A checkpoint may vanish while it is read, as the run keeps no more than the newest; a
broken one is passed over, and left for the run to deal with.
"""

from __future__ import annotations

import errno
import importlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError

from pipeline.config.sections import ServeConfig
from pipeline.models.recipe import Recipe
from pipeline.models.snapshot import InferenceModel, Snapshot
from pipeline.signals import handling
from pipeline.storage.checkpoints import Checkpoint, CheckpointError, read
from pipeline.storage.run_folder import RunFolder
from streams.core.errors import one_line
from streams.core.state_dict import State

if TYPE_CHECKING:
    import uvicorn

    from pipeline.serving.app import Models

POLL_S = 1.0
GRACE_S = 5
"""Seconds that requests under way get to end once the process is asked to."""

_CLEARED_S = 0.05  # by then a checkpoint that is being cleared away, or replaced, mostly is

Say = Callable[[str], None]


class ServeError(Exception):
    """Nothing can be served: the message says why, and what to do."""


class _Seen(NamedTuple):
    """A checkpoint, and what tells it from another of its name."""

    events: int
    written: int  # nanoseconds since the epoch

    def newer(self, than: _Seen | None) -> bool:
        """Whether it has more events, or is of a later run in the same folder."""
        return than is None or self.events > than.events or self.written > than.written


def snapshot(found: Checkpoint, taken: float, metrics: dict[str, float]) -> Snapshot:
    """What a server needs of a checkpoint."""
    state: State = {"learner": found.state["learner"]}
    if found.about["recipe"]["standardise"] is not None:
        operators = found.state["operators"]
        state["standardise"] = operators[max(operators, key=int)]  # it stands behind the guards
    return Snapshot(state, state["learner"]["version"], found.events, metrics, taken)


class CheckpointServer:
    """An ASGI application that answers with the newest model of a run folder.

    ``look`` is called time and again; it builds and warms a newer model beside the one that
    answers, then swaps. Where another run has taken the folder, with other columns or another
    learner, the application around the model is swapped with it.
    """

    def __init__(self, folder: Path, config: ServeConfig, say: Say) -> None:
        self.folder = RunFolder(folder)
        self.events: int | None = None
        self._config = config
        self._say = say
        self._served: _Seen | None = None
        self._unfit: set[_Seen] = set()  # whole, and no model could be made of them
        self._told: set[str] = set()
        self._recipe: Recipe | None = None
        self._enter(None, folder.resolve().name)
        if not self.folder.path.is_dir():
            raise ServeError(f"{folder}: there is no such folder")
        if not self.folder.checkpoints.is_dir() and not (folder / ".lock").exists():
            raise ServeError(
                f"{folder} is no run folder: there is no folder 'checkpoints' in it; "
                "give the --run-dir of a run, which is runs/NAME by default"
            )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    def look(self) -> bool:
        """Takes up the newest model, if there is a newer one; whether there was.

        Raises ``ServeError`` where the newest whole checkpoint is no model that can be served, or
        there are checkpoints and none is whole.
        """
        newest = self._newest()
        if newest is None:
            return False
        found, seen = newest
        try:
            servable, made = self._servable(found, seen)
        except ServeError:
            self._unfit.add(seen)
            raise
        if made != self._recipe:
            self._enter(made, found.about["job"], servable)
        self._models.current = servable
        self._served, self.events = seen, found.events
        return True

    def follow(self, every: float, stop: threading.Event) -> None:
        """Looks every so many seconds, until it is stopped. Says what is wrong, once."""
        while not stop.wait(every):
            try:
                self.look()
            except Exception as error:  # the model at hand goes on answering
                self._tell(one_line(error))

    def _enter(
        self, made: Recipe | None, name: str, servable: InferenceModel | None = None
    ) -> None:
        from pipeline.serving.app import Models, create_app
        from pipeline.serving.labels import ONLY_READS

        self._models: Models = Models(servable)
        self._recipe = made
        self._app = create_app(self._models, made, self._config, name, ONLY_READS)

    def _newest(self) -> tuple[Checkpoint, _Seen] | None:
        """The newest whole checkpoint, if it is newer than the one that is served."""
        for last in (False, False, True):  # all of a listing may be gone when they are read
            broken: list[str] = []
            gone = False
            for path in reversed(_checkpoints(self.folder.checkpoints)):
                written = None
                try:
                    written = _written(path)
                    seen = _Seen(int(path.name), written)
                    if seen == self._served:
                        return None
                    if not seen.newer(self._served) or seen in self._unfit:
                        continue
                    return read(path), seen
                except (CheckpointError, OSError, SafetensorError) as error:
                    if not path.exists():
                        gone = True
                    elif not last and _changes(path, written):
                        gone = True
                        time.sleep(_CLEARED_S)
                        break
                    else:
                        broken.append(one_line(error))
                        self._tell(f"{broken[-1]}; trying the one before it")
            if not gone:
                break
        if broken and self._served is None:
            raise ServeError(
                f"none of the {len(broken)} checkpoints in {self.folder.checkpoints} is whole: "
                f"{broken[0]}"
            )
        return None

    def _servable(self, found: Checkpoint, seen: _Seen) -> tuple[InferenceModel, Recipe]:
        from pipeline.serving.app import warm

        if "recipe" not in found.about:
            raise ServeError(
                f"{found.path} was written by an older everlearn, without the recipe of its model: "
                "run the job anew, in another folder"
            )
        modules = Path(found.about.get("modules", ""))
        if modules.is_dir() and str(modules) not in sys.path:
            sys.path.append(str(modules))  # last: nothing of a user's may shadow what is installed
            importlib.invalidate_caches()
        try:
            taken = snapshot(found, seen.written / 1e9, self._metrics(found.events))
            servable = InferenceModel(found.about["recipe"], taken)
            warm(servable)
        except Exception as error:  # whatever a user's class may raise
            raise ServeError(
                f"{found.path}: its model cannot be made here: {one_line(error)}"
            ) from error
        return servable, found.about["recipe"]

    def _metrics(self, events: int) -> dict[str, float]:
        """Of the summary, if it was written at that moment."""
        summary = self.folder.summary()
        if summary.get("events") != events:
            return {}
        return {k: v for k, v in summary.get("metrics", {}).items() if v is not None}

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._say(what)


def _written(path: Path) -> int:
    """When a checkpoint was sealed, in nanoseconds since the epoch."""
    return (path / "manifest.json").stat().st_mtime_ns


def _changes(path: Path, written: int | None) -> bool:
    """Whether a checkpoint is another than the one that was looked at, or on its way to be."""
    try:
        return _written(path) != written
    except OSError:
        return True


def serve(folder: Path, config: ServeConfig, every: float, say: Say) -> None:
    """Serves the newest model of a run folder until Ctrl-C or SIGTERM.

    Args:
        folder: of the run.
        config: host, port (0 takes a free one) and limits.
        every: seconds between two looks for a newer model.
        say: takes lines for a person.

    Raises:
        ServeError: nothing was served.
    """
    try:
        import uvicorn

        follower = CheckpointServer(folder, config, say)
    except ModuleNotFoundError as error:
        if error.name in ("uvicorn", "fastapi", "starlette"):
            raise ServeError(
                f"serving needs {error.name}, which is not installed: "
                "pip install 'everlearn[serve]'"
            ) from None
        raise
    server = uvicorn.Server(
        uvicorn.Config(
            follower,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    with _leaving_on_signals(server):
        torch.set_num_threads(1)  # requests are small: threads would only wait for each other
        follower.look()
        with _listen(config.host, config.port) as listening, following(follower, every):
            known = (
                "no model yet: 503 until the first checkpoint"
                if follower.events is None
                else f"model after {follower.events:,} events"
            )
            say(f"serving {folder} at {_url(listening)}/docs ({known})")
            server.run(sockets=[listening])


@contextmanager
def following(follower: CheckpointServer, every: float) -> Iterator[None]:
    """While open, a thread looks for newer models."""
    stop = threading.Event()
    thread = threading.Thread(target=follower.follow, args=(every, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(GRACE_S)


@contextmanager
def _leaving_on_signals(server: uvicorn.Server) -> Iterator[None]:
    """While open, Ctrl-C and SIGTERM end the server, before it has started too. While it runs it
    has handlers of its own, and afterwards raises what it caught once more: for these."""

    def leave(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    with handling(leave):
        yield


def _checkpoints(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.isdigit())
    except OSError:
        return []


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use shows before anything is said."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServeError(
                f"port {port} is in use: choose another with --port; 0 takes a free one"
            ) from None
        system = error.errno is not None and error.errno > 0  # and not a name that is unknown
        why = os.strerror(error.errno or 0) if system else error.strerror or error
        raise ServeError(f"cannot listen at {host}, port {port}: {why}") from None


def _url(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
