"""A schema registry that speaks the API of Confluent's, over Confluent's own client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from streams.core.errors import StreamError, one_line
from streams.core.live_stream import BrokerUnavailableError
from streams.secrets import from_environment, without_user

TIMEOUT_S = 10.0
"""A registry that does not answer for so long is unavailable."""
_REFUSED = {401: "authentication", 403: "authorization"}


class SchemaRegistry:
    """Looks up schemas by id. The schema of an id never changes: each is asked for once.

    Args:
        settings: the URL, or options of ``SchemaRegistryClient`` with dots or underscores in their
            names.
        place: the key of the job, for messages.

    Raises:
        StreamError: the client is not installed, or an option is wrong.
    """

    def __init__(self, settings: str | Mapping[str, Any], place: str) -> None:
        stated = {"url": settings} if isinstance(settings, str) else settings
        options = {
            name.replace("_", "."): from_environment(f"{place}.{name}", value)
            for name, value in stated.items()
        }
        self._place = place
        self.url = without_user(str(options.get("url", "")))
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError
        except ImportError:
            raise StreamError(
                f"{place}: confluent-kafka[schemaregistry] is not installed: pip install "
                "'everlearn[registry]'"
            ) from None
        self._error = SchemaRegistryError
        defaults = {"timeout": TIMEOUT_S, "max.retries": 1, "retries.wait.ms": 200}
        # A client for each look-up leaves no connection open; there are few of them.
        self._connect = partial(SchemaRegistryClient, defaults | options)
        try:
            self._connect().close()
        except Exception as error:  # of many kinds, for a mistake in an option
            raise StreamError(f"{place}: {one_line(error)}") from None

    def schema(self, schema_id: int) -> tuple[Any, list[Any]] | None:
        """Return a schema as parsed JSON, and those that it refers to, in the order in which they
        are to be read; None: the registry has no such id.

        Raises:
            BrokerUnavailableError: the registry does not answer.
            StreamError: it refuses.
        """
        try:
            with self._connect() as client:
                found = client.get_schema(schema_id)
                return json.loads(found.schema_str or "null"), _references(client, found, set())
        except self._error as error:
            if error.http_status_code == 404:
                return None
            why = _REFUSED.get(error.http_status_code)
            if why is None:
                raise self._away(error.error_message or "") from None
            raise StreamError(
                f"{self._place}: {self.url} refuses ({why}, HTTP {error.http_status_code}): state "
                "basic_auth_user_info: ${NAME}, a variable that holds user:password"
            ) from None
        except ValueError:
            return None  # a schema that is no JSON: of Protobuf
        except Exception as error:  # of httpx: no connection, no answer in time
            raise self._away(error) from None

    def _away(self, cause: BaseException | str) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"{self._place}: no answer from the schema registry at {self.url} ({one_line(cause)})"
        )


def _references(client: Any, schema: Any, seen: set[str]) -> list[Any]:
    """Return the schemas that a schema refers to, those that they refer to before them."""
    listed: list[Any] = []
    for reference in schema.references or ():
        if reference.name in seen:
            continue
        seen.add(reference.name)
        found = client.get_version(reference.subject, reference.version).schema
        listed += [*_references(client, found, seen), json.loads(found.schema_str or "null")]
    return listed
