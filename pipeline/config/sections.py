"""The sections of a job other than its stream and learner."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from streams.core.settings import Settings


class AlertDuration(Settings):
    """How long a metric must be beyond a threshold; set exactly one of its keys.

    Attributes:
        events: events of the stream between two rows of metrics.
        seconds: seconds between them, by the clock of the run.
    """

    events: PositiveInt | None = None
    seconds: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check_one(self) -> AlertDuration:
        if (self.events is None) == (self.seconds is None):
            raise ValueError("set exactly one of events and seconds")
        return self

    def __str__(self) -> str:
        return f"{self.events:,} events" if self.events is not None else f"{self.seconds:g} s"


class Alert(Settings):
    """A threshold on a metric.

    Attributes:
        metric: name of the metric, as in ``online/accuracy_window``.
        above: fire when the metric is above this value.
        below: fire when the metric is below this value. Set exactly one of the two.
        for: fire only once the metric has been beyond the threshold for this long.
        clear_below: of an alert with ``above``: it ends only when the metric is below this value.
        clear_above: of an alert with ``below``: it ends only when the metric is above this value.
        after_events: do not fire before this step: a new learner is bad at first.
        webhook: http or https URL that a JSON message is posted to; None: no message.
    """

    metric: str = Field(min_length=1)
    above: float | None = None
    below: float | None = None
    duration: AlertDuration | None = Field(None, alias="for")
    clear_below: float | None = None
    clear_above: float | None = None
    after_events: int = Field(0, ge=0)
    webhook: str | None = None

    @field_validator("webhook")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parts = urlsplit(value)
                known = parts.scheme in ("http", "https") and bool(parts.hostname)
                _ = parts.port  # raises for an invalid port
            except ValueError:
                known = False
            if not known:
                raise ValueError("expected a URL that begins with http:// or https://")
        return value

    @model_validator(mode="after")
    def _check_threshold(self) -> Alert:
        if (self.above is None) == (self.below is None):
            raise ValueError("set exactly one of above and below")
        for clear, side, other in (
            ("clear_below", self.above, self.clear_below),
            ("clear_above", self.below, self.clear_above),
        ):
            if other is not None and side is None:
                wanted = "above" if clear == "clear_below" else "below"
                raise ValueError(f"{clear} belongs to an alert with {wanted}")
        if (
            self.above is not None
            and self.clear_below is not None
            and self.clear_below > self.above
        ):
            raise ValueError("clear_below must not be greater than above")
        if (
            self.below is not None
            and self.clear_above is not None
            and self.clear_above < self.below
        ):
            raise ValueError("clear_above must not be less than below")
        return self

    @property
    def rule(self) -> str:
        """Return the threshold in words, as in ``below 0.8``."""
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"

    @property
    def condition(self) -> str:
        """Return when it fires, in words, as in ``below 0.8 for 5,000 events``."""
        return self.rule + ("" if self.duration is None else f" for {self.duration}")

    @property
    def key(self) -> str:
        """Return the identifier of the alert, the same after a restart."""
        clear = self.clear_below if self.above is not None else self.clear_above
        return f"{self.metric} {self.condition}" + ("" if clear is None else f", clear {clear:g}")

    def violated(self, value: float) -> bool:
        """Return whether a value is beyond the threshold."""
        if self.above is not None:
            return value > self.above
        return self.below is not None and value < self.below

    def cleared(self, value: float) -> bool:
        """Return whether a value ends the alert while it fires."""
        if self.clear_below is not None:
            return value < self.clear_below
        if self.clear_above is not None:
            return value > self.clear_above
        return not self.violated(value)


class OnceSeenConfig(Settings):
    """Events that are learned once, never rehearsed, and evaluated again later.

    They are evaluated when probes are, every ``probes.every_events``.

    Attributes:
        share: share of all events, chosen by a hash of (seed, id); 0: none.
        capacity: approximate number of events kept, spread evenly over the logarithm of their age:
            about as many of the last hundred as of the nine hundred before them.
    """

    share: float = Field(0.0, ge=0, lt=1)
    capacity: int = Field(2000, ge=100)


class Cut(Settings):
    """The rule that ends segments; set exactly one of its keys.

    Attributes:
        events: length of a segment, in events.
        seconds: length of a segment, in seconds of event time.
        drift: significance of ADWIN (0.002 is usual): a segment ends where the error of the
            predictions changes. Only for classification.
    """

    events: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    drift: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _check_rule(self) -> Cut:
        if sum(v is not None for v in (self.events, self.seconds, self.drift)) != 1:
            raise ValueError("set exactly one of events, seconds and drift")
        return self


class ProbesConfig(Settings):
    """Held-out events: predicted and scored, never learned, and evaluated again later.

    Attributes:
        share: share of all events, chosen by a hash of (seed, id); 0: none.
        every_events: events between two evaluations; the end of a segment is one more.
        capacity: number of probes kept; this bounds the memory and the cost of an evaluation.
        segments: largest number of segments that have ended; even.
        cut: rule that ends a segment, before any are merged.
    """

    share: float = Field(0.0, ge=0, lt=1)
    every_events: PositiveInt = 2000
    capacity: int = Field(5000, ge=100)
    segments: int = Field(10, ge=2, le=1000, multiple_of=2)
    cut: Cut = Cut(events=2000)

    @model_validator(mode="after")
    def _check_capacity(self) -> ProbesConfig:
        if self.capacity <= self.segments:
            raise ValueError("capacity must be above segments: each keeps one probe or more")
        return self


class ServeConfig(Settings):
    """How the model is served while it learns.

    Attributes:
        host: address to bind; the default is reachable from this machine only.
        port: port to bind; 0: a free one.
        replicas: number of server processes.
        route: prefix of the paths. The default is none on a Ray instance of the run, and ``/NAME``
            of the job on a cluster, which other jobs may share.
        max_events: largest number of events of one request.
        max_bytes: largest size of one request.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    replicas: PositiveInt = 1
    route: str | None = Field(None, pattern=r"^/[\w./-]*$")
    max_events: PositiveInt = 1000
    max_bytes: PositiveInt = 1_000_000


class TrackConfig(Settings):
    """Where a run is tracked.

    Attributes:
        uri: tracking URI of MLflow: ``sqlite:///FILE`` (relative to the current folder; with four
            slashes absolute), ``http://...``, ``postgresql://...``, ``mysql://...``. None: rows of
            metrics and alerts without MLflow.
        experiment: experiment of MLflow; None: the name of the job.
        every_events: events between two rows of metrics.
        alerts: thresholds on metrics.
    """

    uri: str | None = None
    experiment: str | None = None
    every_events: PositiveInt = 1000
    alerts: tuple[Alert, ...] = ()

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, value: str | None) -> str | None:
        if value is None:
            return None
        forms = "expected sqlite:///mlflow.db, http://HOST:PORT, postgresql://... or mysql://..."
        try:
            parts = urlsplit(value)
            _ = parts.port  # raises for an invalid port
        except ValueError:
            raise ValueError(forms) from None
        scheme = parts.scheme.partition("+")[0]
        if scheme == "file" or "://" not in value:
            raise ValueError(f"MLflow no longer supports a plain folder: {forms}")
        if parts.scheme == "sqlite":
            if not value.startswith("sqlite:///") or not parts.path.strip("/"):
                raise ValueError("expected three slashes and a file, as in sqlite:///mlflow.db")
        elif scheme not in ("http", "https", "postgresql", "mysql", "mssql") or not parts.hostname:
            raise ValueError(forms)
        return value


class EvaluateConfig(Settings):
    """How the learner is scored.

    Attributes:
        window: length of the sliding window, in events.
        fading: fading factor; about 1 / (1 - fading) events count.
        group_by: the categorical column whose values are the groups of the grouped AUC; None: it is
            not computed.
        probes: held-out events, to measure forgetting.
        once_seen: events learned once and never rehearsed, to measure how fast they are forgotten.
    """

    window: PositiveInt = 1000
    fading: float = Field(0.999, gt=0, lt=1)
    group_by: str | None = None
    probes: ProbesConfig = ProbesConfig()
    once_seen: OnceSeenConfig = OnceSeenConfig()

    @property
    def reevaluates_events(self) -> bool:
        """Return whether some events are evaluated again on later snapshots."""
        return self.probes.share > 0 or self.once_seen.share > 0


class CheckpointConfig(Settings):
    """When state is written: every ``every_events`` events; the newest ``keep`` files are kept."""

    every_events: PositiveInt = 5000
    keep: PositiveInt = 3


class FeatureCacheConfig(Settings):
    """Where the vectors of encoders are kept, so that a value is encoded once.

    Attributes:
        folder: of a cache on the disk, which runs and processes share, relative to that of the job
            file; None: vectors are kept in memory alone.
        memory_mb: the most megabytes of vectors in memory, of each process that encodes.
        disk_mb: the most megabytes of vectors in the folder.
    """

    folder: str | None = None
    memory_mb: NonNegativeInt = 256
    disk_mb: PositiveInt = 4096


class EncodersConfig(Settings):
    """Where and how the encoders of ``stream.encoder`` run; nothing of it shapes the state.

    Attributes:
        workers: threads that encode, or actors on Ray.
        gpus: GPUs of each; 0: none. On Ray it may be a share of one.
        cache: of their vectors.
    """

    workers: PositiveInt = Field(1, le=1024)
    gpus: NonNegativeFloat = 0.0
    cache: FeatureCacheConfig = FeatureCacheConfig()

    @model_validator(mode="before")
    @classmethod
    def _workers_alone(cls, data: Any) -> Any:
        return {"workers": data} if type(data) is int else data

    @property
    def device(self) -> str:
        """The device of torch on which encoders work."""
        return "cuda" if self.gpus else "cpu"
