"""Errors of kafka-python and confluent-kafka, translated to ours.

An error that may pass becomes ``BrokerUnavailableError``; one that a retry cannot fix becomes
``StreamError``.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from streams.core.errors import StreamError, one_line
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients import timeouts
from streams.kafka.clients.access import Access, missing_codec, plain_cause
from streams.kafka.clients.deadline import within
from streams.kafka.clients.libraries import forbid_topic_creation
from streams.kafka.records import TopicPartition

T = TypeVar("T")

CONNECT_GRACE_S = 2.0
"""How much longer than its own limit a library may take to connect."""
KAFKA_PYTHON_FINAL = (
    "SaslAuthenticationFailedError",
    "UnsupportedSaslMechanismError",
    "AuthorizationError",
    "UnsupportedVersionError",
    "KafkaConfigurationError",
)
"""Errors of kafka-python that a retry cannot fix."""
KAFKA_PYTHON_TOO_LARGE = ("MessageSizeTooLargeError", "RecordListTooLargeError")
CONFLUENT_FINAL = (
    "_AUTHENTICATION",
    "_CONFLICT",
    "_INVALID_ARG",
    "_NOT_IMPLEMENTED",
    "_SSL",
    "_UNSUPPORTED_FEATURE",
    "CLUSTER_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "SASL_AUTHENTICATION_FAILED",
    "TOPIC_AUTHORIZATION_FAILED",
    "UNSUPPORTED_SASL_MECHANISM",
    "UNSUPPORTED_VERSION",
)
"""Codes of librdkafka that a retry cannot fix."""
CONFLUENT_RETRIABLE = (
    "_TRANSPORT",
    "_ALL_BROKERS_DOWN",
    "_RESOLVE",
    "_TIMED_OUT",
    "_MAX_POLL_EXCEEDED",
)
"""Codes of librdkafka that it recovers from by itself."""
CONFLUENT_TOO_LARGE = ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE")


class OutOfRangeError(StreamError):
    """A partition does not hold the offset to read from.

    Attributes:
        positions: the offsets, by partition.
        is_truncated: the log was truncated before them.
    """

    def __init__(self, positions: Mapping[TopicPartition, int], is_truncated: bool = False) -> None:
        self.positions = dict(positions)
        self.is_truncated = is_truncated
        places = ", ".join(f"{topic}/{n} at {at}" for (topic, n), at in positions.items())
        super().__init__(f"the topic does not hold the offset to read from ({places})")


def missing_topic_error(topic: str, servers: str) -> StreamError:
    return StreamError(
        f"there is no topic {topic!r} at {servers}: create it, or correct its name in the job"
    )


@contextmanager
def kafka_python_errors(
    library: Any, access: Access, key: str = "", right: str = "READ"
) -> Iterator[None]:
    """Translate what kafka-python raises.

    Args:
        library: kafka-python.
        access: how the client connects.
        key: goes in front of the message if the broker is unavailable.
        right: what a client does with a topic: READ or WRITE.
    """
    errors, servers = library.errors, access.servers
    try:
        yield
    except errors.TopicAuthorizationFailedError as error:
        raise access.topic_refused(_names(error), right) from None
    except errors.GroupAuthorizationFailedError as error:
        raise access.group_refused(_names(error)) from None
    except errors.ClusterAuthorizationFailedError:
        raise access.cluster_refused() from None
    except errors.SaslAuthenticationFailedError as error:
        raise access.unauthenticated(plain_cause(error)) from None
    except errors.UnsupportedCodecError as error:
        raise missing_codec(error) from None
    except _classes(errors, KAFKA_PYTHON_FINAL) as error:
        raise StreamError(f"stream.client: {servers}: {one_line(error)}") from None
    except _classes(errors, KAFKA_PYTHON_TOO_LARGE) as error:
        raise StreamError(f"{servers}: {one_line(error)}") from None
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise StreamError(f"stream.client: {one_line(error)}") from None
    except (errors.KafkaError, OSError) as error:
        if final := access.diagnosed(one_line(error)):
            raise final from None
        raise unavailable(servers, access.hinted(plain_cause(error)), key) from None


@contextmanager
def confluent_errors(
    library: Any, access: Access, key: str = "", right: str = "READ", topic: str = ""
) -> Iterator[None]:
    """Translate what confluent-kafka raises.

    Args:
        library: confluent-kafka.
        access: how the client connects.
        key: goes in front of the message if the broker is unavailable.
        right: what a client does with a topic: READ or WRITE.
        topic: that it is about, where the library does not say.
    """
    servers = access.servers
    try:
        yield
    except (library.KafkaException, BufferError) as raised:
        error = raised.args[0]
        if isinstance(error, library.KafkaError):
            refused = confluent_refusal(library, error, access, right, topic)
            if refused is not None:
                raise refused from None
            if is_code(library, error, CONFLUENT_TOO_LARGE):
                raise StreamError(f"{servers}: {one_line(error.str())}") from None
            error = error.str()
        raise unavailable(servers, access.hinted(one_line(error)), key) from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise StreamError(f"stream.client: {one_line(error)}") from None


def confluent_refusal(
    library: Any, error: Any, access: Access, right: str = "READ", name: str = ""
) -> StreamError | None:
    """Return the error for what a retry cannot fix; None: it may pass.

    Args:
        library: confluent-kafka.
        error: of librdkafka.
        access: how the client connects.
        right: what a client does with a topic.
        name: of the topic or group, where the error does not say.
    """
    text = one_line(error.str())
    if is_code(library, error, ("TOPIC_AUTHORIZATION_FAILED",)):
        named = re.search(r"[Tt]opic '?([\w.-]+)'?(?: \[|:| not)", text)
        return access.topic_refused(name or (named[1] if named else ""), right)
    if is_code(library, error, ("GROUP_AUTHORIZATION_FAILED",)):
        return access.group_refused(name)
    if is_code(library, error, ("CLUSTER_AUTHORIZATION_FAILED",)):
        return access.cluster_refused()
    if is_code(library, error, ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED")):
        return access.unauthenticated(text)
    if is_code(library, error, CONFLUENT_FINAL) or error.fatal():
        final = access.diagnosed(text)
        return final or StreamError(f"stream.client: {access.servers}: {text}")
    return None


def is_code(library: Any, error: Any, names: Sequence[str]) -> bool:
    """Return whether an error of librdkafka has one of the named codes."""
    return error.code() in {getattr(library.KafkaError, name) for name in names}


def unavailable(servers: str, cause: str = "", key: str = "") -> BrokerUnavailableError:
    cause = f" ({cause})" if cause else ""
    return BrokerUnavailableError(f"{key}no answer from Kafka at {servers}{cause}")


@contextmanager
def surface_connection_errors() -> Iterator[None]:
    """Raise the cause if kafka-python fails to connect.

    The library raises a bare timeout, and names the cause in its log alone.
    """
    capture, library = _LogCapture(), logging.getLogger("kafka")
    level = library.level
    library.setLevel(logging.ERROR)  # also where a caller has silenced it
    library.addHandler(capture)
    try:
        yield
    except Exception as error:
        if capture.messages and type(error).__name__ == "KafkaTimeoutError":
            raise OSError(_telling(capture.messages)) from None
        raise
    finally:
        library.removeHandler(capture)
        library.setLevel(level)


def _telling(messages: Sequence[str]) -> str:
    """Return the last message of failed attempts to connect that names a cause.

    The last attempt times out where little of the time is left: that says nothing.
    """
    causes = [message for message in messages if "RequestTimedOut" not in message]
    telling = [message for message in causes if "Sasl" in message or "broker_version" in message]
    return (telling or causes or messages)[-1]


def connect_within(create: Callable[[], T]) -> T:
    """Return a client of kafka-python. Raise ``OSError`` if its library does not return in time.

    The library waits without end for a port that accepts connections and never answers.
    """
    limit = timeouts.BROKER_TIMEOUT_S + CONNECT_GRACE_S
    try:
        client: T = within(limit, create, _close)
    except TimeoutError:
        raise OSError(
            f"it accepts connections, and has not answered within {limit:g} s: is it Kafka, and "
            "the port of this security_protocol?"
        ) from None
    return client


def _close(client: Any) -> None:
    client.close()


def check_authorized(library: Any, consumer: Any, topic: str) -> None:
    """Raise the library's error where a topic is not listed because it may not be seen.

    The list of topics lacks those; asked for by its name, the broker says that it is one.
    """
    cluster = getattr(consumer, "_cluster", None)
    if cluster is None:  # another version of the library
        return
    forbid_topic_creation(consumer)
    answer, deadline = cluster.set_topics([topic]), time.monotonic() + timeouts.BROKER_TIMEOUT_S
    while not answer.is_done and time.monotonic() < deadline:
        time.sleep(0.02)
    if topic in cluster.unauthorized_topics:
        raise library.errors.TopicAuthorizationFailedError(topic)


class _LogCapture(logging.Handler):
    """Keeps the errors that a logger reports."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = one_line(record.getMessage())
        if not message.startswith("Bootstrap"):  # the outcome, not the cause
            self.messages.append(message)


def _names(error: BaseException) -> str:
    """Return the topics or the group that an error of kafka-python names."""
    named = error.args[0] if error.args else ""
    return ", ".join(map(str, named)) if isinstance(named, set | list | tuple) else str(named)


def _classes(errors: Any, names: Sequence[str]) -> tuple[type[BaseException], ...]:
    return tuple(getattr(errors, name) for name in names)
