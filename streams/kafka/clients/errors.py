"""Errors of kafka-python and confluent-kafka, translated to ours.

An error that may pass becomes ``BrokerUnavailableError``; one that a retry cannot fix becomes
``StreamError``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from streams.core.errors import StreamError, one_line
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.records import TopicPartition

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
def kafka_python_errors(library: Any, servers: str, key: str = "") -> Iterator[None]:
    """Translate what kafka-python raises.

    ``key`` goes in front of the message if the broker is unavailable.
    """
    errors = library.errors
    try:
        yield
    except _classes(errors, KAFKA_PYTHON_FINAL) as error:
        raise StreamError(f"stream.client: {servers}: {one_line(error)}") from None
    except _classes(errors, KAFKA_PYTHON_TOO_LARGE) as error:
        raise StreamError(f"{servers}: {one_line(error)}") from None
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise StreamError(f"stream.client: {one_line(error)}") from None
    except (errors.KafkaError, OSError) as error:
        raise unavailable(servers, one_line(error), key) from None


@contextmanager
def confluent_errors(library: Any, servers: str, key: str = "") -> Iterator[None]:
    """Translate what confluent-kafka raises.

    ``key`` goes in front of the message if the broker is unavailable.
    """
    try:
        yield
    except (library.KafkaException, BufferError) as raised:
        error = raised.args[0]
        if isinstance(error, library.KafkaError):
            if is_code(library, error, CONFLUENT_FINAL) or error.fatal():
                raise StreamError(f"stream.client: {servers}: {one_line(error.str())}") from None
            if is_code(library, error, CONFLUENT_TOO_LARGE):
                raise StreamError(f"{servers}: {one_line(error.str())}") from None
            error = error.str()
        raise unavailable(servers, one_line(error), key) from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise StreamError(f"stream.client: {one_line(error)}") from None


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
            cause = capture.messages[-1]
            if "Sasl" in cause:  # a retry cannot fix it
                raise ValueError(cause) from None
            raise OSError(cause) from None
        raise
    finally:
        library.removeHandler(capture)
        library.setLevel(level)


class _LogCapture(logging.Handler):
    """Keeps the errors that a logger reports."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = one_line(record.getMessage())
        if not message.startswith("Bootstrap"):  # the outcome, not the cause
            self.messages.append(message)


def _classes(errors: Any, names: Sequence[str]) -> tuple[type[BaseException], ...]:
    return tuple(getattr(errors, name) for name in names)
