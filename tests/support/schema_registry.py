"""A schema registry with the API of Confluent's, for tests; it lies beside the repository."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import kafka44

FOLDER = Path(
    os.environ.get("EVERLEARN_SCHEMA_REGISTRY")
    or Path(__file__).parents[3] / "shared" / "schema-registry"
)


@contextmanager
def schema_registry() -> Iterator[str]:
    """Yield the URL of a registry with an empty store; skip the test where it cannot be had."""
    if not (FOLDER / "schema-registry").exists():
        pytest.skip(f"there is no schema registry in {FOLDER}")
    if lack := kafka44.missing():  # it needs the same Java, and Kafka's libraries
        pytest.skip(lack)
    pytest.importorskip("authlib", reason="pip install 'everlearn[registry]'")
    with kafka44.child_process([str(FOLDER / "schema-registry"), "--with-stdin"]) as said:
        yield said["url"]


def register(url: str, subject: str, schema: Any, references: list[Any] | None = None) -> int:
    """Register a schema of Avro as the next version of a subject; return its id."""
    body = {"schema": json.dumps(schema), "references": references or []}
    request = urllib.request.Request(
        f"{url}/subjects/{subject}/versions",
        json.dumps(body).encode(),
        {"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return int(json.load(answer)["id"])
