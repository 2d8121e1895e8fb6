"""The two client libraries: how to import them, and options that need a check of ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from streams.core.errors import StreamError

FIRST_TRANSACTIONAL_VERSION = (0, 11)
"""The first version of Kafka with transactions, idempotent producers and record headers."""

confluent_log = logging.getLogger("streams.kafka.clients.confluent")
"""Receives the log of librdkafka."""
confluent_log.addHandler(logging.NullHandler())  # errors reach users as exceptions


def import_kafka_python() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it reads its own files in a deprecated way
        import kafka
        import kafka.errors
    return kafka  # type: ignore[no-any-return]


def import_confluent() -> ModuleType:
    """Raise ``StreamError`` if confluent-kafka is not installed."""
    try:
        import confluent_kafka
    except ImportError:
        raise StreamError(
            "stream.library: confluent-kafka is not installed: pip install "
            "'everlearn[confluent]', or use kafka-python"
        ) from None
    return confluent_kafka  # type: ignore[no-any-return]


def forbid_topic_creation(client: Any) -> None:
    """Make a client of kafka-python ask for topics without creating them.

    Version 3.0 does not pass its option ``allow_auto_create_topics`` on to where it counts.
    """
    settings = getattr(getattr(client, "_cluster", None), "config", {})
    if "allow_auto_create_topics" in settings:
        settings["allow_auto_create_topics"] = False


def api_version(options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the broker version that kafka-python is to assume, or None to detect it.

    Raise ``StreamError`` if it is not a list of integers.
    """
    version = options.get("api_version")
    if version is None:
        return None
    listed = isinstance(version, list | tuple) and len(version) > 1
    if not listed or not all(type(number) is int for number in version):
        raise StreamError(
            f"stream.client.api_version: {version!r} given; expected a list like [0, 9]"
        )
    return tuple(version)  # JSON and YAML have no tuples


def supports_transactions(version: tuple[int, ...] | None) -> bool:
    return version is None or version >= FIRST_TRANSACTIONAL_VERSION


def librdkafka_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options under librdkafka's names: dots for underscores.

    OAuth is by the client credentials of the options, unless they state another method.
    """
    named = {name.replace("_", "."): value for name, value in options.items()}
    if "sasl.oauthbearer.token.endpoint.url" in named:
        named.setdefault("sasl.oauthbearer.method", "oidc")
    return named
