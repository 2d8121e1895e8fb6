"""The newest model of a run folder, served in this process, whether or not the run has ended.

The server only reads. A checkpoint may vanish while it is read, as the run keeps only the newest. A
broken one is skipped, and left for the run to deal with.
"""

from __future__ import annotations

import errno
import importlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

from learners.pretrained.encoders.columns import ColumnEncoders
from pipeline.config.sections import ServeConfig
from pipeline.models.recipe import Recipe, load_encoders, model_states
from pipeline.models.snapshot import InferenceModel, Snapshot
from pipeline.models.threads import set_threads
from pipeline.signals import handling
from pipeline.storage.checkpoints import Checkpoint, CheckpointError, read
from pipeline.storage.run_folder import RunFolder
from streams.background_worker import BackgroundWorker
from streams.core.errors import one_line

if TYPE_CHECKING:
    import uvicorn

    from pipeline.serving.app import ModelHolder

POLL_S = 1.0
GRACE_S = 5
"""Seconds that open requests have to end once the process is asked to."""

_CLEARED_S = 0.05  # mostly enough to remove or replace a checkpoint

Say = Callable[[str], None]


class ServeError(Exception):
    """Nothing can be served; the message says why, and what to do."""


class _CheckpointId(NamedTuple):
    """A checkpoint, and what distinguishes it from another of its name."""

    events: int
    written: int  # nanoseconds since the epoch

    def newer(self, than: _CheckpointId | None) -> bool:
        """Return whether it has more events, or is of a later run in the same folder."""
        return than is None or self.events > than.events or self.written > than.written


def snapshot(checkpoint: Checkpoint, taken: float, metrics: dict[str, float]) -> Snapshot:
    """Return what a server needs of a checkpoint."""
    state = {"learner": checkpoint.state["learner"], **model_states(checkpoint.state["operators"])}
    return Snapshot(state, state["learner"]["version"], checkpoint.events, metrics, taken)


class CheckpointServer:
    """An ASGI application that answers with the newest model of a run folder.

    ``reload`` is called periodically. It builds and warms a newer model beside the one that
    answers, then swaps. Where another run has taken the folder, with other columns or another
    learner, the application around the model is swapped with it.

    Attributes:
        folder: of the run.
        events: of the stream that the model has seen; None: there is no model yet.

    Raises:
        ServeError: there is no such folder, or it is none of a run.
    """

    def __init__(self, folder: Path, config: ServeConfig, say: Say) -> None:
        self.folder = RunFolder(folder)
        self.events: int | None = None
        self._config = config
        self._say = say
        self._served: _CheckpointId | None = None
        self._unloadable: set[_CheckpointId] = set()  # whole, but no model could be built of them
        self._reported: set[str] = set()
        self._recipe: Recipe | None = None
        self._encoders: tuple[Recipe, ColumnEncoders | None] = ({}, None)  # with their recipe
        self._mount_app(None, folder.resolve().name)
        if not self.folder.path.is_dir():
            raise ServeError(f"{folder}: there is no such folder")
        if not self.folder.checkpoints.is_dir() and not (folder / ".lock").exists():
            raise ServeError(
                f"{folder} is no run folder: there is no folder 'checkpoints' in it; "
                "give the --run-dir of a run, which is runs/NAME by default"
            )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    def reload(self) -> bool:
        """Swap in the newest model, and return whether there was a newer one.

        Raises:
            ServeError: the newest whole checkpoint is no model that can be served, or there are
                checkpoints and none is whole.
        """
        newest = self._newest()
        if newest is None:
            return False
        checkpoint, identity = newest
        try:
            model, recipe = self._build_model(checkpoint, identity)
        except ServeError:
            self._unloadable.add(identity)
            raise
        if recipe != self._recipe:
            self._mount_app(recipe, checkpoint.about["job"], model)
        self._models.current = model
        self._served, self.events = identity, checkpoint.events
        return True

    def known(self) -> str:
        """Return what the model knows, for a person."""
        if self.events is None:
            return "no model yet: 503 until the first checkpoint"
        if not self._models.version():
            return f"the model has learned nothing from {self.events:,} events: 503 until it has"
        return f"model after {self.events:,} events"

    def try_reload(self) -> None:
        """Reload; report a problem, each once, while the present model continues to answer."""
        try:
            self.reload()
        except Exception as error:
            self._report(one_line(error))

    def _mount_app(
        self, recipe: Recipe | None, name: str, model: InferenceModel | None = None
    ) -> None:
        from pipeline.serving.app import ModelHolder, create_app
        from pipeline.serving.labels import ONLY_READS, NoLabels

        self._models: ModelHolder = ModelHolder(model)
        self._recipe = recipe
        labels = NoLabels(ONLY_READS)
        self._app = create_app(self._models, recipe, self._config, name, labels)

    def _newest(self) -> tuple[Checkpoint, _CheckpointId] | None:
        """Return the newest whole checkpoint, if it is newer than the one that is served."""
        for last in (False, False, True):  # all of a listing may have vanished when they are read
            broken: list[str] = []
            vanished = False
            for path in reversed(_checkpoints(self.folder.checkpoints)):
                written = None
                try:
                    written = _written(path)
                    identity = _CheckpointId(int(path.name), written)
                    if identity == self._served:
                        return None
                    if not identity.newer(self._served) or identity in self._unloadable:
                        continue
                    return read(path), identity
                except (CheckpointError, OSError, SafetensorError) as error:
                    if not path.exists():
                        vanished = True
                    elif not last and _changes(path, written):
                        vanished = True
                        time.sleep(_CLEARED_S)
                        break
                    else:
                        broken.append(one_line(error))
                        self._report(f"{broken[-1]}; trying the one before it")
            if not vanished:
                break
        if broken and self._served is None:
            raise ServeError(
                f"none of the {len(broken)} checkpoints in {self.folder.checkpoints} is whole: "
                f"{broken[0]}"
            )
        return None

    def _build_model(
        self, checkpoint: Checkpoint, identity: _CheckpointId
    ) -> tuple[InferenceModel, Recipe]:
        from pipeline.serving.answers import warm

        if "recipe" not in checkpoint.about:
            raise ServeError(
                f"{checkpoint.path} was written by an older everlearn, without the recipe of its "
                "model: run the job anew, in another folder"
            )
        modules = Path(checkpoint.about.get("modules", ""))
        if modules.is_dir() and str(modules) not in sys.path:
            sys.path.append(str(modules))  # last: nothing of a user's may shadow what is installed
            importlib.invalidate_caches()
        try:
            metrics = self._metrics(checkpoint.events)
            taken = snapshot(checkpoint, identity.written / 1e9, metrics)
            recipe = checkpoint.about["recipe"]
            model = InferenceModel(recipe, taken, self._encoders_of(recipe))
            warm(model)
        except Exception as error:  # whatever a user's class may raise
            raise ServeError(
                f"{checkpoint.path}: its model cannot be made here: {one_line(error)}"
            ) from error
        return model, recipe

    def _encoders_of(self, recipe: Recipe) -> ColumnEncoders | None:
        """Return the encoders of a recipe: those of the last one, where it is the same."""
        if recipe != self._encoders[0]:
            self._encoders = recipe, load_encoders(recipe)
        return self._encoders[1]

    def _metrics(self, events: int) -> dict[str, float]:
        """Return those of the summary, if it was written at that moment."""
        summary = self.folder.summary()
        if summary.get("events") != events:
            return {}
        return {k: v for k, v in summary.get("metrics", {}).items() if v is not None}

    def _report(self, problem: str) -> None:
        if problem not in self._reported:
            self._reported.add(problem)
            self._say(problem)


def _written(path: Path) -> int:
    """Return when a checkpoint was sealed, in nanoseconds since the epoch."""
    return (path / "manifest.json").stat().st_mtime_ns


def _changes(path: Path, written: int | None) -> bool:
    """Return whether a checkpoint has been replaced since ``written``, or is being replaced."""
    try:
        return _written(path) != written
    except OSError:
        return True


def serve(folder: Path, config: ServeConfig, every: float, say: Say) -> None:
    """Serve the newest model of a run folder until Ctrl-C or SIGTERM.

    Args:
        folder: of the run.
        config: host, port (0 takes a free one) and limits.
        every: seconds between two reloads.
        say: prints a line for a person.

    Raises:
        ServeError: nothing was served.
    """
    import torch  # noqa: F401 (models may come later, and their library is to have one thread)

    try:
        import uvicorn

        app = CheckpointServer(folder, config, say)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("uvicorn", "starlette"):
            raise ServeError(
                f"serving needs {package}, which is not installed: pip install 'everlearn[serve]'"
            ) from None
        raise
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    with _leaving_on_signals(server):
        set_threads(1)  # requests are small: threads would only wait for each other
        app.reload()
        with _listen(config.host, config.port) as listening, reloading(app, every):
            say(f"serving {folder} at {_url(listening)}/docs ({app.known()})")
            server.run(sockets=[listening])


@contextmanager
def reloading(server: CheckpointServer, every: float) -> Iterator[None]:
    """Reload newer models in a thread while the context is open."""
    worker = BackgroundWorker("reload", server.try_reload, every)
    worker.start()
    try:
        yield
    finally:
        worker.close(GRACE_S)


@contextmanager
def _leaving_on_signals(server: uvicorn.Server) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM end the server while the context is open, also before it starts.

    While the server runs it has handlers of its own; when it ends it raises the signals that it
    caught once more, for these.
    """

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
    """Return a socket that listens, so that a port in use is an error before anything is served."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = addresses[0]
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
