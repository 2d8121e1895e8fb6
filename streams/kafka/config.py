"""What may stand in a job of a stream from Kafka."""

from __future__ import annotations

import os
import re
import warnings
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_serializer,
    field_validator,
    model_validator,
)

from streams.core.errors import StreamError
from streams.core.schema import FeatureKind
from streams.core.settings import FormerName, Settings, unknown
from streams.core.stream_config import DeadLetters, LabelDelay, StreamConfig
from streams.decoding.columns import parse_time
from streams.decoding.formats.factory import AnyFormatConfig
from streams.decoding.formats.json import JsonConfig
from streams.files.stream import LabelConfig

_SECRET = re.compile("pass|secret|token|credential|pem|oauth", re.IGNORECASE)
_USER = re.compile(r"//[^/@\s]*@")  # in a URL
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_FILES = frozenset(
    (
        *("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"),
        *("ssl_ca_location", "ssl_certificate_location", "ssl_key_location", "ssl_crl_location"),
    )
)


class KafkaLabel(LabelConfig):
    """The label. ``type`` is that of its classes: text unless stated, or as the format has it."""

    type: Literal["str", "int", "float", "bool"] | None = None


class KafkaLabels(Settings):
    """Labels on a topic of their own: the fields that hold the event's id, the label, and the time
    at which it became known (else that of its message). ``format`` is that of the events unless
    stated."""

    topic: str
    id: str
    label: str
    time: str | None = None
    format: AnyFormatConfig | None = None


class KafkaDeadLetters(DeadLetters):
    """``topic``: where the dead are sent, each once. A live stream stops when half are dead."""

    topic: str | None = None
    share: float = Field(0.5, ge=0, le=1)


class KafkaConfig(StreamConfig):
    """Settings of a stream from Kafka.

    Attributes:
        servers: ``host:port`` of one or more brokers, from which the others are found.
        topic: one topic of events, or several.
        format: what the value of a message is: ``json``, ``avro``, ``protobuf`` or ``frames``.
        features: kind to names of fields; a vector with its length, an image with its shape.
        label: the field of the label, or what is known of it; with ``labels``, without a field.
        labels: labels on a topic of their own.
        id: field of the event's own id. Without one, its position is its id.
        id_type: ids are integers (``int``), or text that is known by its hash (``str``).
        time: field of event time: seconds, or ISO 8601. Without one, it is the message's.
        key: field (text) that sequences are grouped by.
        start: where a new run begins: ``earliest``, ``latest``, or a time (ISO 8601, or seconds).
        stop: ``never``, or ``latest``: at the last message that there is as the run begins.
        linger: seconds that a message may wait for others, to be learned with them.
        max_bytes: a message that is larger is dead.
        max_future_seconds: an event whose own time is later than that of its message by more than
            this is dead. It would make all others late. Formerly ``ahead``.
        gaps: whether offsets may be left out, as in compacted topics and by transactions. Where not
            stated, one that is missing is an error: it was lost.
        assign: ``all``: every partition is this job's, and read at once. ``group``: those that the
            consumer group gives; each change of its members takes some seconds.
        consumers: actors that read; above one, as members of the group.
        group: the consumer group; the name of the job unless stated.
        library: what talks to Kafka; ``confluent-kafka`` is faster, and an extra.
        dead_letters: a topic for the dead, and how many may be.
        client: passed on to that library: TLS, SASL, ``api_version``... ``${NAME}`` stands for what
            the environment holds: a secret belongs there, and is shown nowhere.
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
        *(
            "max_bytes",
            "max_future_seconds",
        ),  # so that what was dead for them can be sent again, and learned
    }

    servers: str | list[str]
    topic: str | list[str]
    format: AnyFormatConfig = JsonConfig(kind="json")
    features: dict[FeatureKind, list[str] | dict[str, int | tuple[int, ...]]]
    label: str | KafkaLabel | None = None
    labels: KafkaLabels | None = None
    id: str | None = None
    id_type: Literal["int", "str"] = "int"
    time: str | None = None
    key: str | None = None
    start: Literal["earliest", "latest"] | float | str | datetime | date = "earliest"
    stop: Literal["never", "latest"] = "never"
    linger: PositiveFloat = 0.1
    max_bytes: PositiveInt = 1_000_000
    max_future_seconds: Annotated[NonNegativeFloat, FormerName("ahead")] = 86_400.0
    gaps: bool = False
    assign: Literal["all", "group"] = "all"
    consumers: PositiveInt = 1
    group: str | None = None
    library: Literal["kafka-python", "confluent-kafka"] = "kafka-python"
    client: dict[str, Any] = {}
    dead_letters: KafkaDeadLetters = KafkaDeadLetters()

    @field_serializer("client")
    def _masked(self, client: dict[str, Any]) -> dict[str, Any]:
        """For whoever is shown the job: run folder, MLflow."""
        return {
            name: "***"
            if _SECRET.search(name) and not _NAMED.fullmatch(str(value))
            else _USER.sub("//***@", value)
            if isinstance(value, str)
            else value
            for name, value in client.items()
        }

    def options(self) -> dict[str, Any]:
        """``client``, with what the environment holds. Raises ``StreamError``."""
        found = {}
        for name, value in self.client.items():
            named = _NAMED.fullmatch(value) if isinstance(value, str) else None
            if named is not None and named[1] not in os.environ:
                raise StreamError(f"stream.client.{name}: {named[1]} is not in the environment")
            found[name] = value if named is None else os.environ[named[1]]
            self._sound(name, found[name])
        return found

    def _sound(self, name: str, value: Any) -> None:
        """Raises ``StreamError`` for what the libraries take for a broker that is away."""
        option = name.replace(".", "_").lower()
        place = f"stream.client.{name}"
        if option == "security_protocol":
            python = self.library == "kafka-python"
            if (value if python else str(value).upper()) not in _PROTOCOLS:
                raise StreamError(f"{place}: {value!r}: one of {', '.join(_PROTOCOLS)} is wanted")
        if option == "sasl_mechanism" and self.library == "kafka-python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it reads a file of its own in a way that is going
                from kafka.net.sasl import SASL_MECHANISMS

            if value is not None and value not in SASL_MECHANISMS:
                raise StreamError(
                    f"{place}: unknown mechanism {unknown(str(value), SASL_MECHANISMS)}"
                )
        if option in _FILES and value not in (None, "probe") and not Path(str(value)).exists():
            raise StreamError(f"{place}: there is no file {value!r}")

    @field_validator("client", mode="before")
    @classmethod
    def _client(cls, client: Any) -> Any:
        if not isinstance(client, dict):  # nor is it told what: it may hold a secret
            raise ValueError("a mapping of options is wanted")
        for name, value in client.items():
            if isinstance(value, str) and "${" in value and not _NAMED.fullmatch(value):
                raise ValueError(
                    f"{name}: ${{NAME}} stands alone, for the whole value: put all of it into the "
                    "environment"
                )
        return client

    @field_validator("start")
    @classmethod
    def _start(cls, start: float | str | datetime | date) -> float | str:
        if start in ("earliest", "latest"):
            return str(start)
        return parse_time(start, "earliest, latest, or a time")

    @field_validator("features")
    @classmethod
    def _features(cls, features: dict[str, Any]) -> dict[str, Any]:
        for kind, names in features.items():
            sizes = {"vector": 1, "image": 3}.get(kind)
            if isinstance(names, dict) != (sizes is not None):
                shape = {"vector": "{name: length}", "image": "{name: [channels, height, width]}"}
                raise ValueError(f"{kind}: {shape.get(kind, 'a list of names')} is wanted")
            for name, shape in names.items() if isinstance(names, dict) else ():
                given = shape if isinstance(shape, tuple) else (shape,)
                if len(given) != sizes or any(size < 1 for size in given):
                    raise ValueError(f"{kind}.{name}: {shape!r} is no shape of a {kind}")
        if not any(features.values()):
            raise ValueError("no field is a feature")
        return features

    @model_validator(mode="after")
    def _consistent(self) -> KafkaConfig:
        if self.label is None and self.labels is None:
            raise ValueError("state the label's field as label, or its topic as labels")
        if isinstance(self.label, KafkaLabel) and not self.label.column and not self.labels:
            raise ValueError("label needs a column: the field that holds it")
        if self.labels and not self.id:
            raise ValueError("labels on a topic of their own need the field id")
        if self.labels and self.label_delay != LabelDelay(events=0):
            raise ValueError(
                "labels on a topic of their own come at their own time: no label_delay"
            )
        if self.consumers > 1 and self.assign != "group":
            raise ValueError("several consumers share partitions by their group: add assign: group")
        topics = [self.topic] if isinstance(self.topic, str) else self.topic
        if not topics or len(set(topics)) < len(topics):
            raise ValueError("topic: one or more different ones")
        read = [*topics, self.labels.topic] if self.labels else topics
        if self.dead_letters.topic in read:
            raise ValueError("dead_letters.topic: another one than those that are read")
        return self
