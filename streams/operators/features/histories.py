"""Histories: the last values that events of the same key had, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from streams.core.batch import Batch, Ints
from streams.core.errors import StreamError
from streams.core.hashing import category_keys
from streams.core.key_table import KeyTable
from streams.core.schema import Feature, Schema
from streams.core.settings import unknown
from streams.core.state_dict import State
from streams.core.stream_config import HistoryConfig
from streams.operators.base import Operator

NAME = "history"
"""The name of the feature."""
NO_VALUE = np.iinfo(np.int64).min
"""Stands in a history where there is no value yet."""


class Histories(Operator):
    """Appends one column, ``history``, to the features: keys (n, length) of the values of ``of``
    that the last events of the same ``by`` had, in no stated order; ``NO_VALUE`` fills the rest.

    An event enters the history once its label is known, as a learner learns it then, and only if
    it is of class 1 where ``positive`` is set. So ``apply`` is pure, and a history holds what was
    known before the micro-batch. Probes enter none. A value that is corrected later stays.

    A key has its history in one row of a ``KeyTable``. Where there is no room, a new key takes the
    row of one that was not seen for longest.

    Args:
        config: settings.
        schema: of the stream.

    Raises:
        StreamError: a column cannot be used so; the message names place and remedy.
    """

    def __init__(self, config: HistoryConfig, schema: Schema) -> None:
        _check(config, schema)
        self.config = config
        self._table = KeyTable(config.keys, admit_after=1, min_age=0)
        # The last row has no key, and no values.
        self._values = np.full((self._table.rows + 1, config.length), NO_VALUE)
        self._count = np.zeros(self._table.rows + 1, np.int64)  # values that entered

    def settings(self) -> dict[str, Any]:
        """Return what ``of_settings`` makes the operator from, as JSON."""
        return self.config.model_dump(mode="json")

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], schema: Schema) -> Histories:
        """Return the operator of these settings, without state, for a stream of this schema."""
        return cls(HistoryConfig.model_validate(settings), schema)

    def schema(self, schema: Schema) -> Schema:
        """Return the schema of the features behind the operator."""
        feature = Feature(NAME, "history", (self.config.length,), of=self.config.of)
        return replace(schema, features=(*schema.features, feature))

    def describe(self) -> str:
        """Return what is kept: ``the last 64 of item by user, of events of class 1``."""
        events = ", of events of class 1" if self.config.positive else ""
        return f"the last {self.config.length:,} of {self.config.of} by {self.config.by}{events}"

    def apply(self, batch: Batch) -> Batch:
        assert not isinstance(batch.x, np.ndarray)
        rows = self._table.find(category_keys(batch.x[self.config.by]))
        return replace(batch, x={**batch.x, NAME: self._values[rows]})

    view = apply

    def learn(self, batch: Batch) -> None:
        assert batch.y is not None
        if self.config.positive:
            batch = batch.take(batch.y == 1)
        x = batch.x
        if not len(batch) or isinstance(x, np.ndarray):
            return
        values = category_keys(x[self.config.of])
        self._table.advance(len(batch))
        admitted, rows = self._table.observe_and_find(category_keys(x[self.config.by]))
        self._values[admitted.rows], self._count[admitted.rows] = NO_VALUE, 0
        self._enter(rows[rows >= 0], np.maximum(values, NO_VALUE + 1)[rows >= 0])

    def _enter(self, rows: Ints, values: Ints) -> None:
        """Write values (m,) behind those of their rows (m,), in their order."""
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        first = np.searchsorted(rows, rows)  # where those of the same row begin
        place = self._count[rows] + np.arange(len(rows)) - first
        self._values[rows, place % self.config.length] = values  # of equal places the last stays
        ends = np.append(rows[1:] != rows[:-1], True)[: len(rows)]
        self._count[rows[ends]] = place[ends] + 1

    def memory_bytes(self) -> int:
        """Return the bytes of all tables."""
        return self._table.memory_bytes() + self._values.nbytes + self._count.nbytes

    def state(self) -> State:
        used = np.flatnonzero(self._count)
        return {
            "table": self._table.state(),
            "used": used,
            "history": self._values[used],
            "count": self._count[used],
        }

    def servable(self) -> State:
        """Return all rows, in a view: snapshots carry the few that have changed."""
        return {"table": self._table.servable(), "history": self._values}

    def load(self, state: State) -> None:
        self._table.load(state["table"])
        if "used" not in state:
            self._values = np.array(state["history"])
            return
        self._values[:], self._count[:] = NO_VALUE, 0
        self._values[state["used"]], self._count[state["used"]] = state["history"], state["count"]


def _check(config: HistoryConfig, schema: Schema) -> None:
    """Raise ``StreamError`` where the columns of the stream do not suit the history."""
    names = [feature.name for feature in schema.features if feature.kind == "categorical"]
    for key, name in (("by", config.by), ("of", config.of)):
        if name not in names:
            raise StreamError(
                f"stream.history.{key}: there is no categorical column {unknown(name, names)}; "
                "state a column as categorical under stream.features"
            )
    if NAME in [feature.name for feature in schema.features]:
        raise StreamError(
            f"stream.history: the stream has a feature {NAME!r}, which is the name of what is "
            "added: give that column another name"
        )
    if config.positive and schema.task == "regression":
        raise StreamError(
            "stream.history.positive: a number has no positive class: state positive: false"
        )
