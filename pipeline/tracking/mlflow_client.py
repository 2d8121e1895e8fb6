"""Begin or continue one run in MLflow, log to it and end it. Nothing here is retried."""

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
"""Metrics in one request, the most that MLflow takes."""
PARAMS = 100
"""Params in one request, the most that MLflow takes."""
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
TOKEN = "everlearn.token"
"""A tag that finds a run whose id was lost on its way back."""
QUIET = {
    # One try and ten seconds for a request: the caller retries, and knows when to give up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # errors are reported by the caller
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Settings of MLflow, where the environment does not say otherwise."""


class TrackError(Exception):
    """Tracking cannot work with these settings; the message says what to do."""


class DeletedError(Exception):
    """The run, or its experiment, was deleted in MLflow; the message says what to do."""


@dataclass
class Record:
    """The content of ``track.json``.

    Attributes:
        uri: of MLflow, without a password.
        experiment: name of the experiment.
        token: finds the run where its id was lost; None where no run was ever requested.
        run_id: None where it is not known yet.
        described: whether MLflow has the params, tags and job.
        delivered: bytes of each file that are delivered.
        steps: the last step of each file that is delivered.
        tags: tags of alerts that are set.
        seen, firing: the state of alerts in runs of before; ``alerts.json`` has it now.
    """

    uri: str
    experiment: str
    token: str | None = None
    run_id: str | None = None
    described: bool = False
    delivered: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    firing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Record | None:
        """Read a record; return None where there is none. Raise ``ValueError`` where it is
        broken."""
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
    """A run in MLflow. Its methods raise what MLflow raises; ``trouble`` says it in one line.

    Args:
        uri: of MLflow, absolute.
        folder: the run folder, which names the run and has ``job.yaml``.
        params: of the run.
        tags: of the run.
        secrets: texts that must not get into MLflow with the job, and their replacements.
        say: takes a line for each thing that could not be logged and is not retried.
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
        """Begin the run, or continue that of the record; ``keep`` writes the record."""
        if self._client is None:
            self._client = self._connect()
        if record.run_id is None:
            record.run_id = self._create(record, keep)
            keep()
        else:
            self._check_alive(record.run_id)
            self._client.update_run(record.run_id, status="RUNNING")
        if not record.described:
            self._describe(record.run_id)
            record.described = True
            keep()
        self.begun = True

    def log(self, run_id: str, rows: Sequence[Row]) -> None:
        """Log rows; report and leave out a row that MLflow refuses."""
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
        """Set tags."""
        run_tag = importlib.import_module("mlflow.entities").RunTag
        pairs = [run_tag(_key(k), cut(v, TAG_LENGTH)) for k, v in tags.items()]
        with self._still_there(run_id):
            self._client.log_batch(run_id, tags=pairs)

    def end(self, run_id: str, status: str, artifacts: Iterable[Path]) -> None:
        """Log the files that exist, and set the status."""
        for path in artifacts:
            if path.exists():
                self._extra(f"{path}", partial(self._client.log_artifact, run_id, str(path)))
        with self._still_there(run_id):
            self._client.set_terminated(run_id, status)

    def trouble(self, error: Exception) -> str:
        """Return a line that says what is wrong with MLflow."""
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
        """Return a client. Connect first: MLflow retries a missing database for minutes."""
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
        # Two runs that set up the same new file at once would break each other.
        with _setup_lock(file):
            with closing(sqlite3.connect(file, timeout=2.0)) as database:
                database.execute("PRAGMA schema_version")
            return client(self.uri, self.uri)

    def _create(self, record: Record, keep: Callable[[], None]) -> str:
        experiment = self._experiment(record.experiment)
        if record.token is None:
            record.token = uuid.uuid4().hex
            keep()
        else:  # it was requested before, and the answer was lost
            runs = self._client.search_runs([experiment], f"tags.`{TOKEN}` = '{record.token}'")
            if runs:
                return str(runs[0].info.run_id)
        tags = {**self.tags, TOKEN: record.token}
        run = self._client.create_run(experiment, tags=tags, run_name=self.folder.resolve().name)
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            file = sqlite_file(self.uri)
            # Beside the file, in whichever folder the command runs.
            location = str(file.parent / "mlruns" / quote(name, safe=" ")) if file else None
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except Exception as error:  # another run may have created it
                if _code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            raise DeletedError(
                f"the experiment {name!r} is deleted: restore it (mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}), or choose another under "
                "track.experiment"
            )
        return str(experiment.experiment_id)

    def _check_alive(self, run_id: str) -> None:
        """Raise ``DeletedError`` where the run does not exist any more."""
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
        """Raise ``DeletedError`` where a request fails because the run was deleted: MLflow's own
        error is that of a wrong request."""
        try:
            yield
        except Exception as error:
            if _code(error) in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                self._check_alive(run_id)
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
        """Log something optional: MLflow may be reachable while its file store is not."""
        try:
            log()
        except Exception as error:
            self.say(f"{what} could not be logged to MLflow: {_reason(error)}")


def load(uri: str) -> None:
    """Import the parts of MLflow that an address needs, which takes seconds, and keep them from
    writing to the terminal. Raise ``TrackError``."""
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
    """Return whether MLflow is a server, and not a database that this process opens."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a sqlite address; None for another address."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def absolute(uri: str) -> str:
    """Return an address that means the same in every folder."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    _, mark, query = uri.partition("?")
    return f"sqlite:///{file.resolve()}{mark}{query}"


def shown(uri: str) -> str:
    """Return an address without its password and query."""
    if sqlite_file(uri) is not None:
        return uri
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}:***@" if parts.password else f"{parts.username}@"
    return f"{parts.scheme}://{user if parts.username else ''}{host}{parts.path}"


def cut(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters; dots show where it was cut."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _key(name: str) -> str:
    """Return a name that MLflow takes."""
    name = re.sub(r"[^/\w.\- :]", "_", name)[:KEY_LENGTH]
    if posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        name = name.replace("/", "_").replace(".", "_") or "_"
    return name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _code(error: Exception) -> str | None:
    """Return MLflow's error code; None for an error that is not MLflow's."""
    return getattr(error, "error_code", None)


def _reason(error: Exception) -> str:
    """Return the reason in an error. The texts of requests and SQL are a screen long."""
    text = str(error)
    for pattern in (
        r"\[Errno -?\d+\] ([^'\")\]:]+)",
        r"\((?:\w+\.)+\w+\) ([^\n]+)",
        r"(timed out|Remote end closed connection without response)",
        r"failed with (error code \d+)",
    ):
        if match := re.search(pattern, text):
            return one_line(match[1])
    return cut(one_line(error), 300)


@contextmanager
def _setup_lock(database: Path) -> Iterator[None]:
    """Wait for the lock on a sqlite file that MLflow sets up, and hold it."""
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that cannot be written, or a file system without locks
            lock = exclusive_lock(database.with_name(f".{database.name}.lock"), blocking=True)
            stack.enter_context(lock)
        yield
