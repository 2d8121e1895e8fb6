"""The buffer: what is remembered, and when it is recalled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from buffers.admission.base import Admission
from buffers.recall.base import Recall, RecallOutcome
from buffers.registry import find_admission, find_recall
from buffers.store import ColumnStore

Array = NDArray[Any]
Ints = NDArray[np.int64]


class Sample(NamedTuple):
    """Recalled rows: ``slots`` (m,) int64, ``columns``, name to a copy (m, ...), and how many of
    them come from each draw."""

    slots: Ints
    columns: dict[str, Array]
    sizes: tuple[int, ...]


class Buffer:
    """Rows of fixed shape, kept by an admission rule and drawn by a recall rule.

    Any admission goes with any recall. The two draw from random generators of their own, both
    from ``seed``, so that what is kept does not depend on how often the buffer is sampled.

    Args:
        capacity: the most rows that are kept.
        admission: a name in ``buffers.registry.ADMISSIONS``, or a rule of this capacity.
        recall: a name in ``buffers.registry.RECALLS``, or a rule of this capacity.
        seed: of both generators.

    Raises:
        ValueError: an unknown name (the nearest known one is in the message), a capacity below 1,
            or a rule of another capacity.

    >>> buffer = Buffer(capacity=100, admission="ring", seed=7)
    >>> buffer.add(np.arange(150), x=np.zeros((150, 6), np.float32), y=np.arange(150) % 2)
    >>> len(buffer)
    100
    >>> buffer.sample(32).columns["x"].shape
    (32, 6)
    >>> buffer.delete([149, 3])  # 3 is not kept any more
    1
    """

    def __init__(
        self,
        capacity: int,
        admission: str | Admission = "reservoir",
        recall: str | Recall = "uniform",
        seed: int = 0,
    ) -> None:
        if isinstance(admission, str):
            admission = find_admission(admission)(capacity)
        if isinstance(recall, str):
            recall = find_recall(recall)(capacity)
        for rule in (admission, recall):
            if rule.capacity != capacity:
                raise ValueError(f"a {rule.name} of {rule.capacity} rows in a buffer of {capacity}")
        self.capacity = capacity
        self.admission = admission
        self.recall = recall
        self._store = ColumnStore(capacity)
        admits, recalls = np.random.SeedSequence(seed).spawn(2)
        self._admits = np.random.Generator(np.random.PCG64(admits))
        self._recalls = np.random.Generator(np.random.PCG64(recalls))

    def __len__(self) -> int:
        return self.admission.filled

    @property
    def needs_outcome(self) -> bool:
        """Whether the recall rule uses what ``update`` is told."""
        return self.recall.needs_outcome

    def add(self, ids: ArrayLike, **columns: ArrayLike) -> None:
        """Offers n rows, in the order of the stream.

        Args:
            ids: (n,) what ``delete`` and ``relabel`` find a row by.
            columns: (n, ...) each; the label is called "y". The first rows fix names, row shapes
                and dtypes.

        Raises:
            ValueError: other columns or row shapes than those of the first rows, or not n rows in
                each; nothing has changed.
        """
        rows = {"ids": np.asarray(ids)}
        for name, column in columns.items():
            rows[name] = np.asarray(column)
        n = rows["ids"].size
        if rows["ids"].ndim != 1:
            raise ValueError(f"column 'ids': shape {rows['ids'].shape} was given, (n,) is expected")
        self._store.check(rows, n)
        kept, slots = self.admission.place(rows, n, self._admits)
        if len(kept):
            self._store.write(slots, {name: column[kept] for name, column in rows.items()})
            self.recall.put(slots, self.admission.seen)

    def widen(self, name: str, width: int) -> None:
        """From now on rows of a float column (n, m) have ``width`` numbers, if that is more; those
        that a stored row had not are NaN."""
        held = self._store.columns.get(name)
        if held is not None and held.shape[1] < width:
            self._store.widen(name, width, len(self))

    def sample(self, k: int, draws: int = 1, presentations: int | None = None) -> Sample:
        """The rows of ``draws`` independent draws of ``k`` by the recall rule, one after another.

        What the learner makes of each draw are so many ``presentations``, by default one of each
        of ``k`` rows for each of the rule's views.

        A draw has k rows, or fewer where fewer are stored or the rule holds some back. The columns
        are those of ``add`` and "ids"; it has none before the first ``add``.
        """
        presentations = presentations or k * self.recall.views
        parts = [self._draw(k, presentations) for _ in range(draws)]
        slots = parts[0] if draws == 1 else np.concatenate(parts)
        return Sample(slots, self._store.gather(slots), tuple(map(len, parts)))

    def _draw(self, k: int, presentations: int) -> Ints:
        slots = self.recall.draw(k, self.admission.filled, self._recalls)
        if self.recall.criterion is None:
            self.recall.present(slots, presentations)
        return slots

    def choose(self, candidates: Sample, rows: Ints, presentations: int | None = None) -> Sample:
        """Of a sample of candidates the rows (m,) that are rehearsed; the others stay as they are.
        The learner has room for so many ``presentations``, by default one of each row and view.

        For rules that have a ``criterion``, whose samples are not rehearsed as they come.
        """
        slots = candidates.slots[rows]
        self.recall.present(slots, presentations or len(rows) * self.recall.views)
        columns = {name: each[rows] for name, each in candidates.columns.items()}
        return Sample(slots, columns, (len(rows),))

    def update(self, slots: Ints, outcome: RecallOutcome) -> None:
        """Tells the recall rule how the rows of a sample went; call it before the next ``add``."""
        self.recall.update(slots, outcome)

    def delete(self, ids: ArrayLike) -> int:
        """Removes every row with one of ``ids``; returns how many rows that were."""
        slots = np.flatnonzero(np.isin(self._ids(), np.asarray(ids)))
        if len(slots):
            source, target = self.admission.forget(slots)
            self._store.move(source, target)
            self.recall.move(source, target)
        return len(slots)

    def relabel(self, ids: ArrayLike, y: ArrayLike) -> int:
        """Corrects the label of every row with one of ``ids`` (m,) to ``y`` (m, ...).

        Of an id given twice the last label holds. Returns how many rows were found.

        Raises:
            ValueError: rows without a column "y", or labels that do not fit in it; nothing has
                changed.
        """
        given, labels = np.asarray(ids), np.asarray(y)
        if not given.size or not len(self):
            return 0
        if "y" not in self._store.columns:
            raise ValueError("column 'y': no labels are stored")
        held = self._store.columns["y"]
        corrected = ColumnStore(len(given))
        corrected.load({"y": held[:0]})
        corrected.put(np.arange(len(given)), {"y": labels})

        order = np.argsort(given, kind="stable")
        ids_held = self._ids()
        found = np.searchsorted(given[order], ids_held, side="right") - 1
        slots = np.flatnonzero(given[order[found]] == ids_held)
        new = corrected.columns["y"][order[found[slots]]]
        self.admission.relabel(slots, held[slots], new)
        held[slots] = new
        return len(slots)

    def memory_bytes(self) -> int:
        """Bytes at full capacity: columns and what the rules keep for each slot."""
        rules = self.admission.memory_bytes() + self.recall.memory_bytes()
        return self._store.memory_bytes() + rules

    def state(self) -> dict[str, Any]:
        """A nested dict of arrays (copies, of the rows in use only) and JSON scalars."""
        return {
            "capacity": self.capacity,
            "admission": {"name": self.admission.name, **self.admission.state()},
            "recall": {"name": self.recall.name, **self.recall.state(len(self))},
            "columns": self._store.state(len(self)),
            "random": {
                "admission": self._admits.bit_generator.state,
                "recall": self._recalls.bit_generator.state,
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state``, to the bit.

        Raises:
            ValueError: the state of a buffer of another capacity or with other rules.
        """
        given = state["capacity"], state["admission"]["name"], state["recall"]["name"]
        own = self.capacity, self.admission.name, self.recall.name
        if given != own:
            raise ValueError(f"the state of a buffer {given} was given, {own} is expected")
        self.admission.load(state["admission"])
        self.recall.load(state["recall"])
        self._store.load(state["columns"])
        self._admits.bit_generator.state = state["random"]["admission"]
        self._recalls.bit_generator.state = state["random"]["recall"]

    def _ids(self) -> Array:
        """(len(self),): the ids by slot."""
        if not self._store.columns:
            return np.empty(0, np.int64)
        return self._store.columns["ids"][: len(self)]
