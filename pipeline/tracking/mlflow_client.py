"""One run in MLflow: begun or continued, fed with rows, and ended. Nothing here is tried twice."""

from __future__ import annotations

import importlib
import json
import logging
import os
import posixpath
import re
import sqlite3
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pipeline.storage.metric_log import Row
from pipeline.storage.run_folder import exclusive_lock, write_atomic
from streams.core.errors import one_line

BATCH = 1000
"""Metrics in one request: the most that MLflow takes. Of params it takes 100."""
PARAMS = 100
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
TOKEN = "everlearn.token"
"""A tag by which a run is found again whose id got lost on the way back."""
QUIET = {
    # One try and ten seconds for a request: who calls this retries, and knows when to give up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what matters of it comes as an error, and is told of
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""How MLflow is set up where the environment does not say otherwise."""


class TrackError(Exception):
    """Tracking cannot work as it is set up; the message says what to do."""


class DeletedError(Exception):
    """The run, or its experiment, was deleted in MLflow; the message says what to do."""


@dataclass
class Record:
    """What is kept in ``track.json``.

    Attributes:
        uri: of MLflow, without a password.
        experiment: its name there.
        token: by which the run is found where its id got lost; None: none was ever asked for.
        run_id: None where none is known yet.
        described: whether params, tags and the job are there.
        delivered: bytes of each file that are delivered.
        steps: the last step of each file that is delivered.
        seen: bytes of each file that alerts have seen.
        firing: alerts that fire, with their text.
        tags: those that are still to be set.
    """

    uri: str
    experiment: str
    token: str | None = None
    run_id: str | None = None
    described: bool = False
    delivered: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    firing: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Record | None:
        """The one in a file; None where there is none. Raises ``ValueError`` where it is broken."""
        try:
            return cls(**json.loads(file.read_text()))
        except FileNotFoundError:
            return None
        except (TypeError, OSError) as error:
            raise ValueError(one_line(error)) from None

    def write(self, file: Path) -> None:
        """Write the record whole or not at all; it also survives a loss of power, which must not
        forget that there is a run."""
        write_atomic(file, json.dumps(asdict(self), indent=1), fsync=True)


class MlflowRun:
    """A run in MLflow. Its methods raise whatever MLflow raises; ``trouble`` says it in a line.

    Args:
        uri: of MLflow, absolute.
        folder: the run folder, which names the run and holds ``job.yaml``.
        params: of the run.
        tags: of the run.
        secrets: what must not get into MLflow with the job, and what stands there instead.
        say: is told in one line of what could not be logged and is not tried again.
    """

    def __init__(
        self,
        uri: str,
        folder: Path,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        secrets: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self.uri = uri
        self.folder = folder
        self.params = {_key(k): cut(_text(v), PARAM_LENGTH) for k, v in params.items()}
        self.tags = {_key(k): cut(str(v), TAG_LENGTH) for k, v in tags.items()}
        self.secrets = secrets
        self.say = say
        self.begun = False
        self._client: Any = None

    def begin(self, record: Record, keep: Callable[[], None]) -> None:
        """Begins the run, or goes on with that of the record; ``keep`` writes the record."""
        if self._client is None:
            self._client = self._connect()
        if record.run_id is None:
            record.run_id = self._create(record, keep)
            keep()
        else:
            self._alive(record.run_id)
            self._client.update_run(record.run_id, status="RUNNING")
        if not record.described:
            self._describe(record.run_id)
            record.described = True
            keep()
        self.begun = True

    def log(self, run_id: str, rows: Sequence[Row]) -> None:
        """Delivers rows. One that MLflow will not have, whatever is tried, is said and left out."""
        entities = importlib.import_module("mlflow.entities")
        metrics = [
            entities.Metric(_key(name), value, row.time, row.step)
            for row in rows
            for name, value in row.metrics.items()
        ]
        try:
            with self._still_there(run_id):
                for i in range(0, len(metrics), BATCH):
                    self._client.log_batch(run_id, metrics=metrics[i : i + BATCH])
        except Exception as error:
            if _code(error) != "INVALID_PARAMETER_VALUE":
                raise
            if len(rows) == 1:
                self.say(
                    f"MLflow does not take the metrics of step {rows[0].step}: {_reason(error)}"
                )
                return
            self.log(run_id, rows[: len(rows) // 2])
            self.log(run_id, rows[len(rows) // 2 :])

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        run_tag = importlib.import_module("mlflow.entities").RunTag
        pairs = [run_tag(_key(k), cut(v, TAG_LENGTH)) for k, v in tags.items()]
        with self._still_there(run_id):
            self._client.log_batch(run_id, tags=pairs)

    def end(self, run_id: str, status: str, artifacts: Iterable[Path]) -> None:
        """Logs files, those that are there, and sets the status."""
        for path in artifacts:
            if path.exists():
                self._extra(f"{path}", partial(self._client.log_artifact, run_id, str(path)))
        with self._still_there(run_id):
            self._client.set_terminated(run_id, status)

    def trouble(self, error: Exception) -> str:
        """What an error says of MLflow, in the words of a person."""
        place = f"MLflow at {shown(self.uri)}"
        if isinstance(error, DeletedError):
            return f"{place}: {error}"
        reason = _reason(error)
        for secret, instead in self.secrets.items():
            reason = reason.replace(secret, instead)
        code = _code(error)
        if code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
            return (
                f"{place} refuses ({reason}; MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD say who asks)"
            )
        return f"{place} cannot be reached ({reason})"

    def _connect(self) -> Any:
        """A client. MLflow tries a database that is not there for minutes: so we try it before."""
        client = importlib.import_module("mlflow.tracking").MlflowClient
        if is_http(self.uri):
            return client(self.uri, self.uri)
        file = sqlite_file(self.uri)
        if file is None:
            sqlalchemy = importlib.import_module("sqlalchemy")
            engine = sqlalchemy.create_engine(self.uri, poolclass=sqlalchemy.pool.NullPool)
            engine.connect().close()
            return client(self.uri, self.uri)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Two runs that set up the same new file at once would get in each other's way.
        with _setup_lock(file):
            with closing(sqlite3.connect(file, timeout=2.0)) as database:
                database.execute("PRAGMA schema_version")
            return client(self.uri, self.uri)

    def _create(self, record: Record, keep: Callable[[], None]) -> str:
        experiment = self._experiment(record.experiment)
        if record.token is None:
            record.token = uuid.uuid4().hex
            keep()
        else:  # it was asked for before, and the answer did not get here
            found = self._client.search_runs([experiment], f"tags.`{TOKEN}` = '{record.token}'")
            if found:
                return str(found[0].info.run_id)
        tags = {**self.tags, TOKEN: record.token}
        run = self._client.create_run(experiment, tags=tags, run_name=self.folder.resolve().name)
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            file = sqlite_file(self.uri)
            # Beside the file, whichever folder the command is given in.
            where = str(file.parent / "mlruns" / quote(name, safe=" ")) if file else None
            try:
                return str(self._client.create_experiment(name, artifact_location=where))
            except Exception as error:  # another run may have been quicker
                if _code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            raise DeletedError(
                f"the experiment {name!r} is deleted: restore it (mlflow experiments restore "
                f"--experiment-id {found.experiment_id}), or choose another under track.experiment"
            )
        return str(found.experiment_id)

    def _alive(self, run_id: str) -> None:
        """Raises ``DeletedError`` where the run is no more."""
        instead = f"delete {self.folder / 'track.json'} and resume, which begins another"
        try:
            run = self._client.get_run(run_id)
        except Exception as error:
            if _code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise DeletedError(f"the run {run_id} is not there any more: {instead}") from None
        if run.info.lifecycle_stage == "deleted":
            raise DeletedError(
                f"the run {run_id} is deleted: restore it (mlflow runs restore --run-id {run_id}), "
                f"or {instead}"
            )

    @contextmanager
    def _still_there(self, run_id: str) -> Iterator[None]:
        """Tells a run that was deleted from a request that was wrong: MLflow says both alike."""
        try:
            yield
        except Exception as error:
            if _code(error) in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                self._alive(run_id)
            raise

    def _describe(self, run_id: str) -> None:
        param = importlib.import_module("mlflow.entities").Param
        params = [param(key, value) for key, value in self.params.items()]
        try:
            with self._still_there(run_id):
                for i in range(0, len(params), PARAMS):
                    self._client.log_batch(run_id, params=params[i : i + PARAMS])
        except Exception as error:
            if _code(error) != "INVALID_PARAMETER_VALUE":
                raise
            self.say(f"MLflow does not take the params of the run: {_reason(error)}")
        job = self.folder / "job.yaml"
        if job.exists():
            text = job.read_text()
            for secret, instead in self.secrets.items():
                text = text.replace(secret, instead)
            self._extra(f"{job}", partial(self._client.log_text, run_id, text, "job.yaml"))

    def _extra(self, what: str, log: Callable[[], None]) -> None:
        """Logs what the run can do without: MLflow may be there, and its store of files not."""
        try:
            log()
        except Exception as error:
            self.say(f"{what} could not be logged to MLflow: {_reason(error)}")


def load(uri: str) -> None:
    """Imports what of MLflow is needed for an address, which takes seconds, and keeps it from
    writing to the terminal. Raises ``TrackError``."""
    modules = ["mlflow.tracking", "mlflow.entities"]
    if not is_http(uri):
        modules.append("mlflow.store.tracking.sqlalchemy_store")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own parts, of which no user can change any
            for module in modules:
                importlib.import_module(module)
    except Exception as error:
        raise TrackError(
            f"track needs MLflow, which cannot be loaded ({one_line(error)}): "
            "pip install 'everlearn[mlflow]'"
        ) from None
    logger = logging.getLogger("urllib3.connectionpool")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)


def is_http(uri: str) -> bool:
    """Whether MLflow is behind a server, and not a database that is opened from here."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The file of an address of a sqlite database; None where it is none."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def absolute(uri: str) -> str:
    """An address that means the same in every folder."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    _, mark, query = uri.partition("?")
    return f"sqlite:///{file.resolve()}{mark}{query}"


def shown(uri: str) -> str:
    """An address without what is secret in it."""
    if sqlite_file(uri) is not None:
        return uri
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}:***@" if parts.password else f"{parts.username}@"
    return f"{parts.scheme}://{user if parts.username else ''}{host}{parts.path}"


def cut(text: str, length: int) -> str:
    """A text of at most so many characters, that says where it was cut."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _key(name: str) -> str:
    """A name as MLflow takes it."""
    name = re.sub(r"[^/\w.\- :]", "_", name)[:KEY_LENGTH]
    if posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        name = name.replace("/", "_").replace(".", "_") or "_"
    return name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _code(error: Exception) -> str | None:
    """MLflow's own name for what is wrong; None for an error that is not MLflow's."""
    return getattr(error, "error_code", None)


def _reason(error: Exception) -> str:
    """What matters in an error. Those of requests and SQL are a screen long."""
    text = str(error)
    for pattern in (
        r"\[Errno -?\d+\] ([^'\")\]:]+)",
        r"\((?:\w+\.)+\w+\) ([^\n]+)",
        r"(timed out|Remote end closed connection without response)",
        r"failed with (error code \d+)",
    ):
        if found := re.search(pattern, text):
            return one_line(found[1])
    return cut(one_line(error), 300)


@contextmanager
def _setup_lock(database: Path) -> Iterator[None]:
    """Wait for the lock on a sqlite file that MLflow sets up, and hold it."""
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that cannot be written, or a file system without locks
            lock = exclusive_lock(database.with_name(f".{database.name}.lock"), blocking=True)
            stack.enter_context(lock)
        yield
