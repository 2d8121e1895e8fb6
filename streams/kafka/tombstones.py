"""Records without a value: deletions of a compacted topic.

They are counted. On a topic of labels they withdraw the label of the event that their key names.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.core.batch import Array, Batch, Ints, Labels, Tombstones
from streams.decoding.decoder import Decoder
from streams.kafka.record_fields import RecordFields
from streams.kafka.records import MergedRecords

ID = "id"
"""The column of ids that the decoder of a ``KeyReader`` reads."""


class KeyReader(NamedTuple):
    """Reads the id of an event from what is beside the value of a record.

    Attributes:
        beside: the fields that may hold it; the first that does counts.
        decoder: decodes the column ``ID``.
        numeric: whether labels are targets, not class codes.
    """

    beside: RecordFields
    decoder: Decoder
    numeric: bool

    def read(self, records: MergedRecords) -> tuple[Labels, Array]:
        """Return tombstones as withdrawals, and which of the records they are, (n,) bool.

        Those that name no event are left out. ``insert_before`` is zero.
        """
        n = len(records.values)
        named = np.ones(n, np.bool_)
        bare = pa.RecordBatch.from_arrays([pa.nulls(n)], ["none"])
        _, *columns = self.beside.add_to(bare, records, named).columns
        table = pa.RecordBatch.from_arrays([pc.coalesce(*columns)], [ID])
        sent = np.where(records.time < 0, np.nan, records.time / 1000.0)
        batch = self.decoder(table, records.partition, records.offset, sent)
        named[[records.row_at(d.partition, d.offset) for d in batch.dead]] = False
        y = np.full(len(batch), np.nan) if self.numeric else np.full(len(batch), -1)
        before = np.zeros(len(batch), np.int64)
        places = batch.time, batch.partition, batch.offset, before
        return Labels(batch.ids, y, *places, np.ones(len(batch), np.bool_)), named


def add_tombstones(
    batch: Batch, records: MergedRecords, rows_before: Ints, keys: KeyReader | None
) -> Batch:
    """Return a batch with the tombstones among its records.

    Args:
        batch: the other records.
        records: all n records.
        rows_before: (n,) the number of rows of the batch before each record.
        keys: reads keys of labels; None where there are no labels of their own.
    """
    deleted = np.flatnonzero([value is None for value in records.values])
    of_labels = deleted[records.label[deleted]]
    if keys is not None and len(of_labels):
        withdrawals, named = keys.read(records.take(of_labels))
        rows = of_labels[named]
        withdrawals = replace(withdrawals, insert_before=rows_before[rows])
        batch = replace(batch, arrivals=_merged(batch.arrivals, withdrawals, rows, records))
        deleted = np.setdiff1d(deleted, rows)
    if not len(deleted):
        return batch
    places = records.partition[deleted], records.offset[deleted], records.label[deleted]
    return replace(batch, tombstones=Tombstones(*places, rows_before[deleted]))


def _merged(
    arrivals: Labels | None, withdrawals: Labels, rows: Ints, records: MergedRecords
) -> Labels | None:
    """Return labels and withdrawals in the order of their records; ``rows`` are the latter's."""
    if not len(withdrawals):
        return arrivals
    if arrivals is None:
        return withdrawals
    labels = np.flatnonzero(records.label)
    places = _places(records.partition[labels], records.offset[labels])
    by_place = np.argsort(places)
    found = np.searchsorted(places, _places(arrivals.partition, arrivals.offset), sorter=by_place)
    order = np.argsort(np.concatenate([labels[by_place[found]], rows]))
    arrivals = replace(arrivals, withdrawn=arrivals.withdrawals)
    pairs = ((getattr(arrivals, f.name), getattr(withdrawals, f.name)) for f in fields(Labels))
    return Labels(*(np.concatenate(pair)[order] for pair in pairs))


def _places(partition: Array, offset: Ints) -> Ints:
    """Return one number for each position."""
    return (partition.astype(np.int64) << 40) + offset
