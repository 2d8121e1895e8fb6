"""Snapshots from the trainer to other actors, through the object store.

A snapshot and the bases of its large arrays are objects of their own. Each is put into the store
once, however many actors fetch it. An actor fetches a base only where it has not got it already.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import ray

from pipeline.models.delta import Base
from pipeline.models.snapshot import Snapshot

TIMEOUT_S = 10.0
"""Seconds in which an object of the store must be here."""


class SnapshotReference(NamedTuple):
    """Where a snapshot is.

    Attributes:
        snapshot: a reference to it, without its bases.
        bases: a mark of each base, unique in the cluster, and a reference to it, by path.
    """

    snapshot: Any
    bases: Mapping[str, tuple[str, Any]]


class SnapshotSender:
    """Put the snapshots that one kind of actor fetches into the object store.

    A base stays in the store as long as the last snapshot has it, or somebody has its reference.
    """

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex  # tells its bases from those of an earlier process
        self._bases: dict[str, tuple[str, Any]] = {}

    def put(self, snapshot: Snapshot) -> SnapshotReference:
        bases = {}
        for path, base in snapshot.bases.items():
            mark = f"{self._prefix}/{base.number}"
            known = self._bases.get(path)
            bases[path] = known if known and known[0] == mark else (mark, ray.put(base))
        self._bases = bases
        return SnapshotReference(ray.put(replace(snapshot, bases={})), bases)


class SnapshotFetcher:
    """Fetch snapshots from the object store, and keep the bases of the last one."""

    def __init__(self) -> None:
        self._bases: dict[str, tuple[str, Base]] = {}

    def get(self, reference: SnapshotReference) -> Snapshot:
        """Return a snapshot. Raise ``RayError`` where a part of it is not there in time."""
        snapshot = cast(Snapshot, ray.get(reference.snapshot, timeout=TIMEOUT_S))
        bases = {}
        for path, (mark, base) in reference.bases.items():
            known = self._bases.get(path)
            if known is None or known[0] != mark:
                known = mark, ray.get(base, timeout=TIMEOUT_S)
            bases[path] = known
        self._bases = bases
        return replace(snapshot, bases={path: base for path, (_, base) in bases.items()})
