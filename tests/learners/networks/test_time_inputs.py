"""Columns of times as inputs of a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learners.networks.column_inputs import ColumnInputs
from learners.networks.encoders.time_codes import CODES, NUMBERS, encode_times
from learners.networks.inputs import InputsConfig
from streams.core.batch import Batch, Ragged
from streams.core.schema import Feature, Schema, with_zone
from streams.times import TimeZone

FEATURES = (Feature("c", "categorical"), Feature("w", "time"), Feature("z", "time"))
ZONE = "America/New_York"


def schema(zone: str | None = None) -> Schema:
    features = FEATURES if zone is None else with_zone(FEATURES, zone)
    return Schema(features, "classification")


def stream(n: int = 40) -> Batch:
    rng = np.random.default_rng(3)
    at = np.arange(n)
    time = 1.7e9 + at * 500.0
    w = time - rng.integers(10**7, size=n)
    w[::5] = np.nan
    x = {"c": Ragged.of_text(["a"] * n), "w": w, "z": time.copy()}
    return Batch(at, time, x, np.zeros(n, np.int32), at)


def test_times_give_numbers_codes_and_a_mark() -> None:
    for zone in (None, ZONE):
        inputs = ColumnInputs(schema(zone), True, InputsConfig(rows=16))
        batch = stream()
        tensor = inputs.tensor(inputs.rows(batch)).numpy()
        assert (inputs.dense, inputs.codes) == (2 * (NUMBERS + 1), 2 * len(CODES) + 1)
        assert not isinstance(batch.x, np.ndarray)
        first = 0
        for j, name in enumerate("wz"):
            column = np.asarray(batch.x[name])
            encoded = encode_times(column, batch.time, zone and TimeZone(zone))
            start = j * (NUMBERS + 1)
            assert np.array_equal(tensor[:, start : start + NUMBERS], encoded.numbers)
            assert np.array_equal(tensor[:, start + NUMBERS], np.isnan(column))
            for k, size in enumerate(CODES):
                codes = tensor[:, inputs.dense + j * len(CODES) + k]
                assert np.array_equal(codes - first, encoded.codes[:, k])
                first += size
        assert first < inputs.embeddings


def test_times_without_embeddings_are_numbers_alone() -> None:
    inputs = ColumnInputs(schema(), True, InputsConfig(), embedded=False)
    batch = stream()
    assert inputs.codes == 0
    assert np.isfinite(inputs.tensor(inputs.rows(batch)).numpy()).all()


def test_old_rows_of_times_are_encoded_by_their_own_event_time() -> None:
    """What a buffer stores is all that its encoding needs, in any order."""
    inputs = ColumnInputs(schema(), True, InputsConfig())
    batch = stream()
    rows = inputs.rows(batch)
    order = np.random.default_rng(0).permutation(len(batch))
    shuffled = inputs.tensor({name: values[order] for name, values in rows.items()})
    assert np.array_equal(shuffled.numpy(), inputs.tensor(rows).numpy()[order])
    later = inputs.tensor(inputs.rows(replace(batch, time=batch.time + 86_400))).numpy()
    assert (later != inputs.tensor(rows).numpy()).any(axis=1).sum() == len(batch)


def test_encodings_name_the_zone() -> None:
    text = ColumnInputs(schema(ZONE), True, InputsConfig()).encodings()["w"].text
    assert text == (
        "place in day, week and year (America/New_York), time to the event, embeddings of hour and "
        "weekday"
    )


def test_event_without_a_time_comes_at_the_latest() -> None:
    """As an event of a request may. That time is in the state."""
    columns, batch = schema(), stream()
    inputs = ColumnInputs(columns, True, InputsConfig(rows=16))
    nowhere = replace(batch, time=np.full(len(batch), np.nan))
    assert np.isfinite(inputs.tensor(inputs.rows(nowhere)).numpy()).all()
    inputs.observe(batch[:30])
    inputs.observe(batch[10:20])  # an event may be late
    other = ColumnInputs(columns, True, InputsConfig(rows=16))
    other.load(inputs.servable())
    latest = replace(batch, time=np.full(len(batch), batch.time[29]))
    expected = inputs.rows(latest)["times"]
    for of in (inputs, other):
        assert np.array_equal(of.rows(replace(nowhere))["times"], expected)
    some = replace(batch, time=np.where(batch.ids < 5, np.nan, batch.time))
    assert np.array_equal(inputs.rows(some)["times"][5:], inputs.rows(batch)["times"][5:])
