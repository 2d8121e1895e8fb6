"""The settings of a stream from Kafka, as they stand in a job."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from streams.core.errors import StreamError
from streams.core.schema import FeatureKind, Missing
from streams.core.settings import FormerName, Settings, unknown
from streams.core.stream_config import DeadLetters, LabelDelay, StreamConfig
from streams.decoding.formats.factory import AnyFormatConfig
from streams.decoding.formats.json import JsonConfig
from streams.decoding.time_reader import TimeSettings, start_time
from streams.files.config import LabelConfig
from streams.kafka.record_fields import RecordField
from streams.secrets import check_variables, from_environment, masked

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_FILE_OPTIONS = frozenset(
    (
        *("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"),
        *("ssl_ca_location", "ssl_certificate_location", "ssl_key_location", "ssl_crl_location"),
    )
)


class KafkaLabel(LabelConfig):
    """The label: ``column`` in the value, or ``{from: header, name: outcome}`` beside it.

    Attributes:
        type: of its classes: text, unless stated or known to the format.
        source, name: as in ``RecordField``.
    """

    type: Literal["str", "int", "float", "bool"] | None = None
    source: Literal["key", "header"] | None = Field(None, alias="from")
    name: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> KafkaLabel:
        if self.source is None and self.name is not None:
            raise ValueError("name needs from: header, or from: key")
        if self.source is not None and self.column is not None:
            raise ValueError("state one of column and from")
        _ = self.record_field  # checks it
        return self

    @property
    def record_field(self) -> RecordField | None:
        """The field beside the value; None: the label is in the value, or comes on its own."""
        if self.source is None:
            return None
        return RecordField.model_validate({"from": self.source, "name": self.name})


class KafkaLabels(Settings):
    """Labels on a topic of their own.

    Attributes:
        topic: of the labels.
        id: field of the event's id, or ``{from: key}`` (``RecordField``). label: field of the
            label.
        time: field of the time at which the label became known; None: the message's timestamp.
        format: of the labels; None: that of the events.
    """

    topic: str
    id: str | RecordField
    label: str
    time: str | None = None
    format: AnyFormatConfig | None = None


class KafkaDeadLetters(DeadLetters):
    """``topic`` receives each dead letter once."""

    topic: str | None = None


class KafkaConfig(TimeSettings):
    """Settings of a stream from Kafka.

    Attributes:
        servers: ``host:port`` of one or more brokers, from which the others are found.
        topic: one topic of events, or several.
        format: of a message's value: ``json``, ``avro``, ``protobuf`` or ``frames``.
        features: kind to names of fields; a vector with its length, an image with its shape.
        missing: what becomes of a missing value, by the name of its feature
            (``Schema.missing_policy``). Missing is a null and a field that is left out. What cannot
            be read is not missing: its event is dead.
        label: the field of the label, or its settings; with ``labels``, settings without a field.
        labels: labels on a topic of their own.
        id: field of the event's id. Without one, its position is its id. ``id``, ``time`` and
            ``key`` may be beside the value, as ``{from: key}`` (``RecordField``).
        id_type: ids are integers (``int``), or text that is stored as a hash (``str``).
        time: field of event time: seconds, or ISO 8601. Without one, the message's timestamp.
        key: field (text) that sequences are grouped by.
        start: where a new run starts: ``earliest``, ``latest``, or a time (ISO 8601, or seconds).
        stop: ``never``, or ``latest``: at the last message that exists when the run starts.
        linger: seconds that a message may wait for others, to be learned with them.
        max_bytes: a larger message is dead.
        max_future_seconds: an event is dead if its own time is later than the timestamp of its
            message by more than this. It would make all others late. Formerly ``ahead``.
        gaps: ``refuse``: a missing offset is an error. By default it is none: Kafka leaves out
            offsets of compacted records, of aborted transactions and of their markers.
        assign: ``all``: this job reads all partitions, at once. ``group``: it reads those that the
            consumer group assigns; a rebalance takes some seconds.
        consumers: number of source actors; more than one share the partitions as a group.
        group: the consumer group; by default the name of the job.
        library: the client library; ``confluent-kafka`` is faster, and an optional extra.
        dead_letters: a topic for dead letters, and how many stop the run.
        client: options of that library: TLS, SASL, ``api_version``... ``${NAME}`` stands for an
            environment variable. Keep secrets there: they are stored and shown nowhere.
    """

    runtime_only_keys: ClassVar[frozenset[str]] = StreamConfig.runtime_only_keys | {
        *(
            "servers",
            "start",
            "stop",
            "linger",
            "assign",
            "consumers",
            "group",
            "library",
            "client",
            "gaps",
        ),
        # Later versions of a schema may be added.
        *("format.schemas", "format.registry", "labels.format.schemas", "labels.format.registry"),
        # May change, so that messages that were dead for them can be sent again and learned.
        *("max_bytes", "max_future_seconds"),
    }

    servers: str | list[str]
    topic: str | list[str]
    format: AnyFormatConfig = JsonConfig(kind="json")
    features: dict[FeatureKind, list[str] | dict[str, int | tuple[int, ...]]]
    missing: dict[str, Missing] | None = None
    label: str | KafkaLabel | None = None
    labels: KafkaLabels | None = None
    id: str | RecordField | None = None
    id_type: Literal["int", "str"] = "int"
    time: str | RecordField | None = None
    key: str | RecordField | None = None
    start: Literal["earliest", "latest"] | float | str | datetime | date = "earliest"
    stop: Literal["never", "latest"] = "never"
    linger: PositiveFloat = 0.1
    max_bytes: PositiveInt = 1_000_000
    max_future_seconds: Annotated[NonNegativeFloat, FormerName("ahead")] = 600.0
    gaps: Literal["refuse"] | None = None
    assign: Literal["all", "group"] = "all"
    consumers: PositiveInt = 1
    group: str | None = None
    library: Literal["kafka-python", "confluent-kafka"] = "kafka-python"
    client: dict[str, Any] = {}
    dead_letters: KafkaDeadLetters = KafkaDeadLetters()

    @field_serializer("client")
    def _masked(self, client: dict[str, Any]) -> dict[str, Any]:
        """Mask secrets in what is stored and shown: run folder, MLflow."""
        return masked(client)

    def options(self) -> dict[str, Any]:
        """Return ``client`` with the values of environment variables. Raise ``StreamError``."""
        options = {}
        for name, value in self.client.items():
            options[name] = from_environment(f"stream.client.{name}", value)
            self._check_option(name, options[name])
        return options

    def _check_option(self, name: str, value: Any) -> None:
        """Raise ``StreamError`` for a mistake that the libraries report as an absent broker."""
        option = name.replace(".", "_").lower()
        key = f"stream.client.{name}"
        if option == "security_protocol":
            exact = self.library == "kafka-python"  # librdkafka ignores case
            if (value if exact else str(value).upper()) not in _PROTOCOLS:
                raise StreamError(f"{key}: {value!r}: expected one of {', '.join(_PROTOCOLS)}")
        if option == "sasl_mechanism" and self.library == "kafka-python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it reads its own files in a deprecated way
                from kafka.net.sasl import SASL_MECHANISMS

            if value is not None and value not in SASL_MECHANISMS:
                raise StreamError(
                    f"{key}: unknown mechanism {unknown(str(value), SASL_MECHANISMS)}"
                )
        if (
            option in _FILE_OPTIONS
            and value not in (None, "probe")
            and not Path(str(value)).exists()
        ):
            raise StreamError(f"{key}: there is no file {value!r}")

    @classmethod
    def advice(cls, data: Mapping[str, Any]) -> list[str]:
        if isinstance(data.get("gaps"), bool):
            return [
                "gaps: true and false have no effect any more: missing offsets are no loss in "
                "Kafka (gaps: refuse makes one an error)"
            ]
        return []

    @field_validator("gaps", mode="before")
    @classmethod
    def _former_gaps(cls, gaps: Any) -> Any:
        return None if isinstance(gaps, bool) else gaps

    @field_validator("client", mode="before")
    @classmethod
    def _client(cls, client: Any) -> Any:
        if not isinstance(client, dict):  # do not show the value: it may hold a secret
            raise ValueError("expected a mapping of options")
        check_variables(client)
        for name, value in client.items():
            if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
                raise ValueError(f"{name}: {value!r} is text: write true or false")
        return client

    @field_validator("start")
    @classmethod
    def _start(cls, start: float | str | datetime | date, info: ValidationInfo) -> float | str:
        if start in ("earliest", "latest"):
            return str(start)
        return start_time(start, info, "earliest, latest, or a time")

    @field_validator("features")
    @classmethod
    def _features(cls, features: dict[str, Any]) -> dict[str, Any]:
        for kind, names in features.items():
            sizes = {"vector": 1, "image": 3}.get(kind)
            if isinstance(names, dict) != (sizes is not None):
                shape = {"vector": "{name: length}", "image": "{name: [channels, height, width]}"}
                raise ValueError(f"{kind}: expected {shape.get(kind, 'a list of names')}")
            for name, shape in names.items() if isinstance(names, dict) else ():
                dimensions = shape if isinstance(shape, tuple) else (shape,)
                if len(dimensions) != sizes or any(size < 1 for size in dimensions):
                    raise ValueError(f"{kind}.{name}: {shape!r} is not a shape of a {kind}")
        if not any(features.values()):
            raise ValueError("no field is a feature")
        return features

    @model_validator(mode="after")
    def _consistent(self) -> KafkaConfig:
        if self.label is None and self.labels is None:
            raise ValueError("state the label's field as label, or its topic as labels")
        if isinstance(self.label, KafkaLabel) and not self.labels:
            if not self.label.column and not self.label.source:
                raise ValueError("label needs a column: the field that holds it")
        elif isinstance(self.label, KafkaLabel) and self.label.source:
            raise ValueError("label.from: labels are on a topic of their own: leave it out")
        if self.labels and not self.id:
            raise ValueError("labels on a topic of their own need the field id")
        if self.labels and self.label_delay != LabelDelay(events=0):
            raise ValueError(
                "labels on a topic of their own arrive at their own time: leave out label_delay"
            )
        if self.consumers > 1 and self.assign != "group":
            raise ValueError("several consumers share partitions as a group: add assign: group")
        topics = [self.topic] if isinstance(self.topic, str) else self.topic
        if not topics or len(set(topics)) < len(topics):
            raise ValueError("topic: expected one or more different topics")
        read = [*topics, self.labels.topic] if self.labels else topics
        if self.dead_letters.topic in read:
            raise ValueError("dead_letters.topic: must not be a topic that the job reads")
        return self
