"""The buffer: rows of fixed shape, kept by an admission rule and drawn by a recall rule."""

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
    """Rows that were drawn.

    Attributes:
        slots: (m,) int64, where the rows lie in the buffer.
        columns: name to a copy (m, ...) of the column.
        sizes: how many of the rows come from each draw.
    """

    slots: Ints
    columns: dict[str, Array]
    sizes: tuple[int, ...]


class Buffer:
    """Keep rows by an admission rule, and draw them by a recall rule.

    Any admission rule combines with any recall rule. Each has its own random generator, both from
    ``seed``, so that which rows are kept does not depend on how often the buffer is sampled.

    Args:
        capacity: the most rows that are kept.
        admission: a name in ``buffers.registry.ADMISSIONS``, or a rule of this capacity.
        recall: a name in ``buffers.registry.RECALLS``, or a rule of this capacity.
        seed: of both generators.

    Raises:
        ValueError: an unknown name (the message has the nearest known one), a capacity below 1, or
            a rule of another capacity.

    >>> buffer = Buffer(capacity=100, admission="ring", seed=7)
    >>> buffer.add(np.arange(150), x=np.zeros((150, 6), np.float32), y=np.arange(150) % 2)
    >>> len(buffer)
    100
    >>> buffer.sample(32).columns["x"].shape
    (32, 6)
    >>> buffer.delete([149, 3])  # the row with id 3 was evicted before
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
        admission_seed, recall_seed = np.random.SeedSequence(seed).spawn(2)
        self._admission_random = np.random.Generator(np.random.PCG64(admission_seed))
        self._recall_random = np.random.Generator(np.random.PCG64(recall_seed))

    def __len__(self) -> int:
        return self.admission.filled

    @property
    def needs_outcome(self) -> bool:
        """Whether ``update`` makes a difference to the recall rule."""
        return self.recall.needs_outcome

    def add(self, ids: ArrayLike, **columns: ArrayLike) -> None:
        """Offer n rows, in the order of the stream.

        Args:
            ids: (n,) by which ``delete`` and ``relabel`` find a row.
            columns: (n, ...) each; the label is called "y". The first rows fix the names, row
                shapes and dtypes.

        Raises:
            ValueError: the columns or row shapes differ from those of the first rows, or a column
                does not have n rows; nothing has changed.
        """
        rows = {"ids": np.asarray(ids)}
        for name, column in columns.items():
            rows[name] = np.asarray(column)
        n = rows["ids"].size
        if rows["ids"].ndim != 1:
            raise ValueError(f"column 'ids': shape {rows['ids'].shape} was given, (n,) is expected")
        self._store.check(rows, n)
        kept, slots = self.admission.place(rows, n, self._admission_random)
        if len(kept):
            self._store.write(slots, {name: column[kept] for name, column in rows.items()})
            self.recall.put(slots, self.admission.seen)

    def widen(self, name: str, width: int) -> None:
        """Give rows of a float column (n, m) at least ``width`` numbers from now on.

        The numbers that a stored row did not have are NaN.
        """
        column = self._store.columns.get(name)
        if column is not None and column.shape[1] < width:
            self._store.widen(name, width, len(self))

    def sample(self, k: int, draws: int = 1, presentations: int | None = None) -> Sample:
        """Return the rows of ``draws`` independent draws of ``k``, one after another.

        A draw has k rows. It has fewer where fewer are stored, or where the rule holds some back.

        Args:
            k: rows of a draw.
            draws: how many draws.
            presentations: how often the learner presents rows of one draw; by default ``k`` times
                the rule's views.

        Returns:
            The rows, with the columns of ``add`` and "ids"; no columns before the first ``add``.
        """
        presentations = presentations or k * self.recall.views
        parts = [self._draw(k, presentations) for _ in range(draws)]
        slots = parts[0] if draws == 1 else np.concatenate(parts)
        return Sample(slots, self._store.gather(slots), tuple(map(len, parts)))

    def _draw(self, k: int, presentations: int) -> Ints:
        slots = self.recall.draw(k, self.admission.filled, self._recall_random)
        if self.recall.criterion is None:
            self.recall.present(slots, presentations)
        return slots

    def choose(self, candidates: Sample, rows: Ints, presentations: int | None = None) -> Sample:
        """Return the ``rows`` (m,) of a sample of candidates, which are rehearsed.

        Use it with rules that have a ``criterion``: they draw candidates, from which the learner
        chooses. Candidates that are not chosen count as not recalled.

        Args:
            candidates: a sample of such a rule.
            rows: (m,) int64, indices into the sample.
            presentations: how often the learner presents them in all; by default each row as often
                as the rule has views.
        """
        slots = candidates.slots[rows]
        self.recall.present(slots, presentations or len(rows) * self.recall.views)
        columns = {name: column[rows] for name, column in candidates.columns.items()}
        return Sample(slots, columns, (len(rows),))

    def update(self, slots: Ints, outcome: RecallOutcome) -> None:
        """Pass the outcome of a sample to the recall rule. Call it before the next ``add``."""
        self.recall.update(slots, outcome)

    def delete(self, ids: ArrayLike) -> int:
        """Delete every row with one of ``ids``. Return how many rows were deleted."""
        slots = np.flatnonzero(np.isin(self._ids(), np.asarray(ids)))
        if len(slots):
            source, target = self.admission.forget(slots)
            self._store.move(source, target)
            self.recall.move(source, target)
        return len(slots)

    def relabel(self, ids: ArrayLike, y: ArrayLike) -> int:
        """Set the label of every row with one of ``ids`` (m,) to ``y`` (m, ...).

        Where an id is given twice its last label counts. Return how many rows were relabelled.

        Raises:
            ValueError: the rows have no column "y", or the labels do not fit into it; nothing has
                changed.
        """
        ids, y = np.asarray(ids), np.asarray(y)
        if not ids.size or not len(self):
            return 0
        if "y" not in self._store.columns:
            raise ValueError("column 'y': no labels are stored")
        labels = self._store.columns["y"]
        corrected = ColumnStore(len(ids))  # casts and checks as the store of the buffer does
        corrected.load({"y": labels[:0]})
        corrected.put(np.arange(len(ids)), {"y": y})

        order = np.argsort(ids, kind="stable")
        stored_ids = self._ids()
        last_match = np.searchsorted(ids[order], stored_ids, side="right") - 1
        slots = np.flatnonzero(ids[order[last_match]] == stored_ids)
        new = corrected.columns["y"][order[last_match[slots]]]
        self.admission.relabel(slots, labels[slots], new)
        labels[slots] = new
        return len(slots)

    @property
    def columns(self) -> dict[str, Array]:
        """The stored rows by slot, as views (len(self), ...); empty before the first ``add``."""
        return {name: column[: len(self)] for name, column in self._store.columns.items()}

    def memory_bytes(self) -> int:
        """Return the bytes at full capacity, of the columns and of the rules."""
        rules = self.admission.memory_bytes() + self.recall.memory_bytes()
        return self._store.memory_bytes() + rules

    def state(self) -> dict[str, Any]:
        """Return a nested dict of arrays (copies, of the rows in use only) and JSON scalars."""
        return {
            "capacity": self.capacity,
            "admission": {"name": self.admission.name, **self.admission.state()},
            "recall": {"name": self.recall.name, **self.recall.state(len(self))},
            "columns": self._store.state(len(self)),
            "random": {
                "admission": self._admission_random.bit_generator.state,
                "recall": self._recall_random.bit_generator.state,
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state``, bit for bit.

        Raises:
            ValueError: the state is of a buffer of another capacity or with other rules.
        """
        saved = state["capacity"], state["admission"]["name"], state["recall"]["name"]
        own = self.capacity, self.admission.name, self.recall.name
        if saved != own:
            raise ValueError(f"the state of a buffer {saved} was given, {own} is expected")
        self.admission.load(state["admission"])
        self.recall.load(state["recall"])
        self._store.load(state["columns"])
        self._admission_random.bit_generator.state = state["random"]["admission"]
        self._recall_random.bit_generator.state = state["random"]["recall"]

    def _ids(self) -> Array:
        """Return the ids by slot: (len(self),)."""
        if not self._store.columns:
            return np.empty(0, np.int64)
        return self._store.columns["ids"][: len(self)]
