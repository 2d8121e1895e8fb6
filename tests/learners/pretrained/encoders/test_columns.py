"""The columns of a stream that encoders turn into vectors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from learners.base import LearnerError
from learners.pretrained.encoders.columns import ColumnEncoders, EncodedColumns
from streams.core.schema import Feature, Schema
from streams.testing import Event, TestStream

FEATURES = {"kind": "random-features", "dimension": 6}
rng = np.random.default_rng(0)


def images(n: int) -> TestStream:
    """A matrix stream of n images."""
    return TestStream([Event(rng.integers(0, 256, (1, 3, 4), np.uint8), "a") for _ in range(n)])


def mixed(n: int) -> TestStream:
    """Numbers, two vectors and an image beside each other."""
    return TestStream(
        [
            Event(
                {
                    "price": float(i),
                    "left": rng.normal(size=5).tolist(),
                    "right": rng.normal(size=5).tolist(),
                    "photo": rng.integers(0, 256, (3, 2, 2), np.uint8),
                },
                "a",
            )
            for i in range(n)
        ]
    )


def test_a_single_image_becomes_one_array_of_vectors() -> None:
    stream = images(5)
    encoders = ColumnEncoders.load(FEATURES, stream.schema, 3)
    (feature,) = encoders.columns.schema.features
    assert (feature.name, feature.kind, feature.shape) == ("x", "vector", (6,))
    assert encoders.columns.schema.matrix
    (block,) = stream.read({}, 100)
    encoded = encoders.apply(block)
    assert isinstance(encoded.x, np.ndarray)
    assert (encoded.x.shape, encoded.x.dtype) == ((5, 6), np.float32)
    assert encoded.x[2:4].tobytes() == encoders.apply(block[2:4]).x.tobytes()  # type: ignore[union-attr]
    assert replace(encoded, x=block.x) == replace(block, x=block.x)


def test_encoders_of_some_columns_leave_the_others_as_they_are() -> None:
    stream = mixed(4)
    stated = {"photo": {"kind": "identity"}, "left": FEATURES}
    columns = ColumnEncoders.load(stated, stream.schema, 3).columns
    kinds = [(f.name, f.kind, f.shape) for f in columns.schema.features]
    assert kinds == [
        ("price", "numeric", ()),
        ("left", "vector", (6,)),
        ("right", "vector", (5,)),
        ("photo", "vector", (12,)),
    ]
    (block,) = stream.read({}, 100)
    encoded = ColumnEncoders.load(stated, stream.schema, 3).apply(block).x
    assert encoded["right"] is block.x["right"]  # type: ignore[call-overload]
    assert encoded["photo"].max() <= 1  # type: ignore[call-overload]


def test_one_encoder_is_of_all_columns_that_suit_it() -> None:
    columns = ColumnEncoders.load({"kind": "identity"}, mixed(2).schema, 0).columns
    assert list(columns.columns) == ["left", "right", "photo"]


def test_encoded_columns_are_known_from_their_settings() -> None:
    stream = mixed(3)
    encoders = ColumnEncoders.load(FEATURES, stream.schema, 3)
    settings = json.loads(json.dumps(encoders.columns.settings()))
    columns = EncodedColumns.of_settings(settings, stream.schema)
    assert columns.schema == encoders.columns.schema
    assert columns.fingerprints() == encoders.columns.fingerprints()
    (block,) = stream.read({}, 100)
    again = ColumnEncoders.load_known(columns, stream.schema).apply(block).x
    for name, vectors in encoders.apply(block).x.items():  # type: ignore[union-attr]
        assert np.array_equal(again[name], vectors)  # type: ignore[call-overload]


def test_another_encoder_than_that_of_the_model_is_refused() -> None:
    schema = images(1).schema
    columns = ColumnEncoders.load(FEATURES, schema, 3).columns
    other = replace(columns.columns["x"], fingerprint="0" * 32)
    with pytest.raises(LearnerError, match=r"encoder of 'x': .* was trained with 0{32}: install"):
        ColumnEncoders.load_known(EncodedColumns(schema, {"x": other}), schema)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"text": FEATURES}, "stream.encoder: there is no feature 'text': There are: price, name"),
        ({"price": FEATURES}, "stream.encoder.price: encoder 'random-features' takes columns of"),
        (FEATURES, "takes columns of kind image or vector, and this stream has only numeric, cat"),
    ],
)
def test_columns_that_do_not_suit_are_named(stated: dict[str, object], message: str) -> None:
    features = Feature("price", "numeric"), Feature("name", "categorical")
    with pytest.raises(LearnerError, match=message):
        ColumnEncoders.load(stated, Schema(features, "classification"), 0)
