"""The ids of topics: a topic that is deleted and made anew has another.

Brokers keep them since Kafka 2.8. Consumers do not return them, admin clients do.
"""

from __future__ import annotations

import base64
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients.errors import connect_within, surface_connection_errors, unavailable
from streams.kafka.clients.libraries import (
    api_version,
    confluent_log,
    import_confluent,
    import_kafka_python,
    librdkafka_options,
)
from streams.kafka.clients.oauth import without_oauth

log = logging.getLogger(__name__)

FIRST_VERSION_WITH_IDS = (2, 8)
NO_ID = str(uuid.UUID(int=0))
"""What a broker without topic ids returns."""
TIMEOUT_S = 3.0
"""How long the broker may take to return the ids."""


class TopicIds(ABC):
    """Looks up topic ids over a connection of its own. Only one thread may use it at a time.

    Args:
        servers: ``host:port`` of some of the brokers, separated by commas.
        options: ``stream.client`` of a job.
    """

    def __init__(self, servers: str, options: Mapping[str, Any]) -> None:
        self._servers = servers
        self._options = options
        self._admin: Any = None

    def __call__(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the id of each topic: a UUID.

        Leave out a topic that is absent, that may not be described, or that has no id. Raise
        ``BrokerUnavailableError``.
        """
        try:
            found = self._look_up(topics)
        except BrokerUnavailableError:
            self.close()
            raise
        return {topic: id_ for topic, id_ in found.items() if id_ != NO_ID}

    @abstractmethod
    def _look_up(self, topics: Sequence[str]) -> dict[str, str]: ...

    @abstractmethod
    def close(self) -> None: ...


class ConfluentTopicIds(TopicIds):
    """Over confluent-kafka."""

    def _look_up(self, topics: Sequence[str]) -> dict[str, str]:
        library = import_confluent()
        from confluent_kafka.admin import AdminClient

        if self._admin is None:
            settings = librdkafka_options(self._options) | {"bootstrap.servers": self._servers}
            self._admin = AdminClient(settings, logger=confluent_log)
        ids: dict[str, str] = {}
        for topic in topics:  # in one request, an absent one hides the others
            request = self._admin.describe_topics(
                library.TopicCollection([topic]), request_timeout=TIMEOUT_S
            )
            try:
                text = str(request[topic].result(2 * TIMEOUT_S).topic_id)
            except (library.KafkaException, TimeoutError) as error:
                if _is_unavailable(library, error):
                    raise unavailable(self._servers) from None
                log.debug("no id of topic %s", topic, exc_info=True)
                continue
            ids[topic] = str(uuid.UUID(bytes=base64.urlsafe_b64decode(f"{text}==")))
        return ids

    def close(self) -> None:
        self._admin = None  # the library disconnects with the last reference


class KafkaPythonTopicIds(TopicIds):
    """Over kafka-python."""

    def _look_up(self, topics: Sequence[str]) -> dict[str, str]:
        kafka = import_kafka_python()
        version = api_version(self._options)
        if version is not None and version < FIRST_VERSION_WITH_IDS:
            return {}
        try:
            described = self._connected(kafka).describe_topics(list(topics))
        except (kafka.errors.KafkaError, OSError) as error:
            if isinstance(error, kafka.errors.UnsupportedVersionError):
                return {}
            raise unavailable(self._servers, str(error)) from None
        return {
            topic["name"]: str(topic.get("topic_id", NO_ID))
            for topic in described
            if not topic["error_code"]
        }

    def _connected(self, kafka: Any) -> Any:
        if self._admin is None:
            known = kafka.KafkaAdminClient.DEFAULT_CONFIG
            options = without_oauth(self._options)
            options = {name: value for name, value in options.items() if name in known}
            always = {
                "bootstrap_servers": self._servers.split(","),
                "bootstrap_timeout_ms": int(TIMEOUT_S * 1000),
                "request_timeout_ms": int(TIMEOUT_S * 1000),
            }
            if (version := api_version(options)) is not None:
                always["api_version"] = version
            with surface_connection_errors():
                self._admin = connect_within(partial(kafka.KafkaAdminClient, **options | always))
        return self._admin

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(Exception):  # it may have lost its broker
                admin.close()


def _is_unavailable(library: Any, error: Exception) -> bool:
    if isinstance(error, TimeoutError):
        return True
    code = error.args[0].code()
    names = ("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_RESOLVE", "REQUEST_TIMED_OUT")
    return code in {getattr(library.KafkaError, name) for name in names}
