"""Fields that the stream does not read make no difference to a request, in any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.recipe import Recipe
from pipeline.serving.requests import RequestReader
from streams.core.stream import Stream
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream
from streams.integrations.river import RiverStream, RiverStreamConfig
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
UNREAD = st.dictionaries(st.text(max_size=8).map(lambda name: f"zz_{name}"), JSON, max_size=4)


def kafka(**more: Any) -> Stream:
    stated = {"kind": "kafka", "servers": "127.0.0.1:9", "topic": "t", "label": "y", **more}
    return KafkaStream(KafkaConfig.model_validate(stated), Path())


def file(name: str) -> Stream:
    if name.endswith(".csv"):
        Path(name).write_text("a,c,y\n1.5,red,u\n2.5,blue,d\n")
    else:
        pq.write_table(pa.table({"a": [1.5, 2.5], "c": ["red", "blue"], "y": ["u", "d"]}), name)
    features = {"numeric": ["a"], "categorical": ["c"]}
    config = {"kind": "recorded", "path": name, "label": "y", "features": features}
    return FileStream(RecordedConfig.model_validate(config), Path())


def layouts(name: str) -> tuple[Stream, dict[str, Any]]:
    """Return a stream with one of the layouts, and an event as it is written there."""
    if name == "messages":
        stream = kafka(features={"numeric": ["a"], "categorical": ["c"]})
        return stream, {"a": 1, "c": "red"}
    if name == "nested messages":
        stream = kafka(features={"numeric": ["in.a"], "text": ["in.c"]}, id="id")
        return stream, {"in": {"a": 1, "c": "red"}, "id": 3}
    if name == "river":
        stream = RiverStream(RiverStreamConfig(kind="river", dataset="Phishing"), Path())
        return stream, {feature.name: 0.5 for feature in stream.schema.features}
    return file(name), {"a": 1.5, "c": "red"}


@pytest.mark.parametrize("name", ["messages", "nested messages", "a.csv", "a.parquet", "river"])
def test_reader_ignores_any_field_that_is_not_read(name: str) -> None:
    stream, event = layouts(name)
    features = [[f.name, f.kind, list(f.shape), f.missing] for f in stream.schema.features]
    recipe: Recipe = {
        "features": features,
        "task": stream.schema.task,
        "classes": [],
        "id_type": stream.id_type,
        "dtype": stream.dtype,
        "json_layout": stream.json_layout(),
    }
    reader = RequestReader(recipe)
    plain = reader.read([event])

    @settings(max_examples=25)
    @given(UNREAD)
    def read(unread: dict[str, Any]) -> None:
        both = reader.read([{**unread, **event}, {**event, **unread}])
        assert both.ids == plain.ids * 2
        columns, wanted = both.batch.x, plain.batch.x
        if isinstance(columns, np.ndarray):
            assert isinstance(wanted, np.ndarray)
            assert np.array_equal(columns, np.concatenate([wanted, wanted]))
            return
        assert isinstance(wanted, dict)
        assert columns.keys() == wanted.keys()
        for key in columns:
            one, two = columns[key], wanted[key]
            texts = [c.texts() if hasattr(c, "texts") else c.tolist() for c in (one, two)]
            assert texts[0] == texts[1] * 2

    read()
