"""The sections of a job beside its stream and learner."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from streams.core.settings import Settings


class Alert(Settings):
    """A threshold on a metric.

    Attributes:
        metric: its name, as in ``online/accuracy_window``.
        above: fires when the metric is larger than this.
        below: fires when it is smaller than this. Exactly one of the two is given.
        after_events: fires for no step before this one: a learner begins badly.
        webhook: http or https address that a JSON message is posted to; None: none.
    """

    metric: str = Field(min_length=1)
    above: float | None = None
    below: float | None = None
    after_events: int = Field(0, ge=0)
    webhook: str | None = None

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parts = urlsplit(value)
                known = parts.scheme in ("http", "https") and bool(parts.hostname)
                _ = parts.port  # raises where it is none
            except ValueError:
                known = False
            if not known:
                raise ValueError("an address that begins with http:// or https:// is wanted")
        return value

    @model_validator(mode="after")
    def _one_threshold(self) -> Alert:
        if (self.above is None) == (self.below is None):
            raise ValueError("exactly one of above and below is wanted")
        return self

    @property
    def rule(self) -> str:
        """The threshold in words, as in ``below 0.8``."""
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"

    @property
    def key(self) -> str:
        """What tells this alert from the others, also after a restart."""
        return f"{self.metric} {self.rule}"

    def violated(self, value: float) -> bool:
        """Whether a value is beyond the threshold."""
        if self.above is not None:
            return value > self.above
        return self.below is not None and value < self.below


class OnceSeenConfig(Settings):
    """Events that are learned once, never rehearsed, and asked about whenever probes are, or would
    be (``probes.every_events``).

    Attributes:
        share: of all events, chosen by a hash of (seed, id); 0: none.
        capacity: about so many are kept: of the last hundred about as many as of the nine hundred
            before them, and of the nine thousand before those.
    """

    share: float = Field(0.0, ge=0, lt=1)
    capacity: int = Field(2000, ge=100)


class Cut(Settings):
    """Where one segment ends and the next begins; exactly one of the three is stated.

    Attributes:
        events: after so many events.
        seconds: after so much event time.
        drift: where the error of predictions changes, by ADWIN at this significance (0.002 is
            usual); of classification.
    """

    events: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    drift: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one(self) -> Cut:
        if sum(v is not None for v in (self.events, self.seconds, self.drift)) != 1:
            raise ValueError("state one of events, seconds and drift")
        return self


class ProbesConfig(Settings):
    """Events held out: predicted and scored, never learned, and asked about again later.

    Attributes:
        share: of all events, chosen by a hash of (seed, id); 0: none.
        every_events: they are asked about each time so many events have come in, and whenever a
            segment ends.
        capacity: probes that are kept in all; this bounds the memory and the cost of an evaluation.
        segments: segments that have ended are at most so many, an even number.
        cut: where segments end, to begin with.
    """

    share: float = Field(0.0, ge=0, lt=1)
    every_events: PositiveInt = 2000
    capacity: int = Field(5000, ge=100)
    segments: int = Field(10, ge=2, le=1000, multiple_of=2)
    cut: Cut = Cut(events=2000)

    @model_validator(mode="after")
    def _enough(self) -> ProbesConfig:
        if self.capacity <= self.segments:
            raise ValueError("capacity: of each segment one must be kept, and of the running one")
        return self


class ServeConfig(Settings):
    """How the model answers while it learns.

    Attributes:
        host: the address it listens at; by default nobody outside this machine reaches it.
        port: 0 takes a free one.
        replicas: processes that answer.
        route: prefix of the paths. By default none on a Ray of our own, and ``/NAME`` of the job on
            a cluster, where there may be others.
        max_events: events in one request.
        max_bytes: of one request.
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
        uri: of MLflow: ``sqlite:///FILE`` (from the folder where the command is given; with four
            slashes from the root), ``http://...``, ``postgresql://...``, ``mysql://...``.
        experiment: of MLflow; None: the name of the job.
        every_events: metrics are written each time so many events have come in.
        alerts: thresholds on metrics.
    """

    uri: str
    experiment: str | None = None
    every_events: PositiveInt = 1000
    alerts: tuple[Alert, ...] = ()

    @field_validator("uri")
    @classmethod
    def _known(cls, value: str) -> str:
        wanted = "sqlite:///mlflow.db, http://HOST:PORT, postgresql://... or mysql://... is wanted"
        try:
            parts = urlsplit(value)
            _ = parts.port  # raises where it is none
        except ValueError:
            raise ValueError(wanted) from None
        scheme = parts.scheme.partition("+")[0]
        if scheme == "file" or "://" not in value:
            raise ValueError(f"MLflow keeps no runs in a plain folder any more: {wanted}")
        if parts.scheme == "sqlite":
            if not value.startswith("sqlite:///") or not parts.path.strip("/"):
                raise ValueError("three slashes and a file are wanted, as in sqlite:///mlflow.db")
        elif scheme not in ("http", "https", "postgresql", "mysql", "mssql") or not parts.hostname:
            raise ValueError(wanted)
        return value


class Evaluate(Settings):
    """How the learner is scored.

    Attributes:
        window: events in the sliding window.
        fading: fading factor; about 1 / (1 - fading) events count.
        probes: events held out, to see later what is forgotten.
        once_seen: events learned once and never rehearsed, to see how fast that is.
    """

    window: PositiveInt = 1000
    fading: float = Field(0.999, gt=0, lt=1)
    probes: ProbesConfig = ProbesConfig()
    once_seen: OnceSeenConfig = OnceSeenConfig()

    @property
    def asks(self) -> bool:
        """Whether there are events to be asked about as the run goes on."""
        return self.probes.share > 0 or self.once_seen.share > 0


class Checkpointing(Settings):
    """When state is written: each time so many events have come in; the newest ``keep`` stay."""

    every_events: PositiveInt = 5000
    keep: PositiveInt = 3
