"""Snapshots through the object store: each part once, and right for actors that come late."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray")

from pipeline.models.delta import DeltaEncoder
from pipeline.models.snapshot import Snapshot
from pipeline.runners.ray import snapshots
from pipeline.runners.ray.snapshots import SnapshotFetcher, SnapshotReference, SnapshotSender


class Store:
    """The object store without a cluster: what was put there and what was fetched, as bytes."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []
        self.fetched: list[int] = []

    def put(self, value: Any) -> int:
        self.objects.append(pickle.dumps(value))
        return len(self.objects) - 1

    def get(self, reference: int, timeout: float) -> Any:
        self.fetched.append(reference)
        return pickle.loads(self.objects[reference])

    def fetched_bytes(self) -> int:
        fetched, self.fetched = self.fetched, []
        return sum(len(self.objects[reference]) for reference in fetched)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(snapshots.ray, "put", store.put)
    monkeypatch.setattr(snapshots.ray, "get", store.get)
    return store


class Model:
    """A model with a table of 2 MB, and the trainer's end of its snapshots."""

    def __init__(self) -> None:
        self.table = np.zeros((65_536, 8), np.float32)
        self.version = 0
        self._encoder, self._sender = DeltaEncoder(), SnapshotSender()

    def snapshot(self, rows: int = 1000) -> SnapshotReference:
        """Learn some rows, and publish a snapshot."""
        self.version += 1
        self.table[self.version : self.version + rows] = self.version
        state, bases = self._encoder.encode({"learner": {"table": self.table}})
        return self._sender.put(Snapshot(state, self.version, 0, bases=bases))


def test_consumers_may_come_late_skip_and_restart(store: Store) -> None:
    """Also those that go on where the trainer was started again."""
    model, steady, restarted = Model(), SnapshotFetcher(), SnapshotFetcher()
    for step in range(1, 40):
        if step == 25:
            model = Model()
        if step % 10 == 0:
            restarted = SnapshotFetcher()
        reference = model.snapshot(rows=5000)
        for fetcher, asks in ((steady, step % 7 == 1), (restarted, step % 3 == 0)):
            if asks:
                snapshot = fetcher.get(reference)
                assert snapshot.version == model.version
                got = snapshot.whole()["learner"]["table"]
                assert got.tobytes() == model.table.tobytes()


def test_base_is_put_and_fetched_once(store: Store) -> None:
    model, fetcher = Model(), SnapshotFetcher()
    fetcher.get(model.snapshot())
    assert store.fetched_bytes() > model.table.nbytes
    for _ in range(10):
        fetcher.get(model.snapshot())
        assert store.fetched_bytes() < model.table.nbytes / 40
    assert len(store.objects) == 11 + 1
