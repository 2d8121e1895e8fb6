"""Times as features: from files and messages, in recordings and in requests."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.models.recipe import schema_of
from pipeline.serving.requests import InvalidEventsError, RequestReader
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.decoding.decoder import Columns, Decoder
from streams.decoding.formats.base import fields_of
from streams.decoding.formats.factory import make
from streams.decoding.formats.json import JsonConfig
from streams.decoding.time_reader import TimeReader
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream
from streams.recordings.table import blocks_of, table_of

MAY = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOON = MAY.timestamp()
SCHEMA = Schema((Feature("w", "time"), Feature("c", "categorical")), "classification")
NAN = float("nan")


def decode(column: Any, schema: Schema = SCHEMA, **times: Any) -> Batch:
    n = len(column)
    table = pa.table({"w": column, "c": ["a"] * n})
    decoder = Decoder(schema, Columns(), times=TimeReader(**times))
    return decoder(table, np.zeros(n, np.int32), np.arange(n), np.arange(n) * 1.0)


def times_of(batch: Batch, name: str = "w") -> list[float | None]:
    """Return the times of a feature; None where one is missing."""
    assert isinstance(batch.x, dict)
    column = np.asarray(batch.x[name])
    assert column.dtype == np.float64
    return [None if np.isnan(time) else time for time in column.tolist()]


@pytest.mark.parametrize(
    ("column", "settings", "wanted"),
    [
        (["2024-05-01T12:00:00Z", "", "NA"], {}, [NOON, None, None]),
        (["2024-05-01 14:00:00"], {"zone": "Europe/Vienna"}, [NOON]),
        (["2024-05-01T14:00:00+02:00"], {"zone": "Asia/Tokyo"}, [NOON]),
        ([NOON * 1000], {"unit": "ms"}, [NOON]),
        (["01.05.2024 12:00", "2024-05-01T12:00:00Z"], {"format": "%d.%m.%Y %H:%M"}, [NOON] * 2),
        (pa.array([MAY, None]), {"unit": "ms"}, [NOON, None]),
        (pa.array([datetime(2024, 5, 1, 14)]), {"zone": "Europe/Vienna"}, [NOON]),
        (pa.array([date(2024, 5, 1)]), {}, [NOON - 12 * 3600]),
        (pa.array([NOON, NAN], from_pandas=False), {}, [NOON, None]),
        ([20240501, 20240502], {"format": "%Y%m%d"}, [NOON - 43_200, NOON + 43_200]),
    ],
)
def test_decoder_reads_times_of_any_type(
    column: Any, settings: dict[str, Any], wanted: list[float | None]
) -> None:
    batch = decode(column, **settings)
    assert not batch.dead
    assert times_of(batch) == wanted


def test_decoder_rejects_what_is_no_time() -> None:
    batch = decode(["soon", "2024-05-01", None, "inf"])
    expected = "expected a time (seconds, or ISO 8601)"
    assert [letter.reason for letter in batch.dead] == [
        f"column 'w' holds 'soon'; {expected}",
        f"column 'w' holds 'inf'; {expected}",
    ]
    assert times_of(batch) == [NOON - 43_200, None]
    required = Schema((Feature("w", "time", missing="dead"), SCHEMA.features[1]), "classification")
    batch = decode(["2024-05-01", None], required)
    assert [letter.reason for letter in batch.dead] == [f"column 'w' holds null; {expected}"]


def files(folder: Path, **changes: Any) -> FileStream:
    settings = {"kind": "recorded", "path": "a.csv", "label": "y", **changes}
    return FileStream(RecordedConfig.model_validate(settings), folder)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_have_times_beside_the_event_time(tmp_path: Path, suffix: str) -> None:
    """They are inferred, but for the event time, which is one where the job says so."""
    lines = [("at,signup,shop,y"), *(f"2024-05-0{i},2024-04-0{i}T08:00,s,u" for i in range(1, 9))]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    if suffix == "parquet":
        signup = [datetime(2024, 4, i, 8) for i in range(1, 9)]
        days = [date(2024, 5, i) for i in range(1, 9)]
        table = pa.table({"at": days, "signup": signup, "shop": ["s"] * 8, "y": ["u"] * 8})
        pq.write_table(table, tmp_path / "a.parquet")
    path = f"a.{suffix}"
    stream = files(tmp_path, path=path, time="at")
    kinds = [(feature.name, feature.kind) for feature in stream.schema.features]
    assert kinds == [("signup", "time"), ("shop", "categorical")]
    stated = {"time": ["at", "signup"], "categorical": ["shop"]}
    stream = files(tmp_path, path=path, time="at", features=stated, time_zone="Europe/Vienna")
    assert [feature.zone for feature in stream.schema.features] == ["Europe/Vienna"] * 2 + [None]
    (batch,) = stream.read({}, 100)
    assert times_of(batch, "at") == batch.time.tolist()
    assert times_of(batch, "signup")[0] == (datetime(2024, 4, 1, 6, tzinfo=UTC).timestamp())
    uses = {column.name: column.use for column in stream.describe().columns}
    assert uses["at"] == "time, event time"


def test_numbers_that_are_no_times_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("w,c,y\n1714564800000,a,u\n1714564800001,b,v\n")
    stated = {"time": ["w"], "categorical": ["c"]}
    with pytest.raises(Exception, match=r"stream\.features\.time: .*'w'.*time_unit: ms"):
        files(tmp_path, features=stated)
    (batch,) = files(tmp_path, features=stated, time_unit="ms").read({}, 10)
    assert times_of(batch) == [NOON, NOON + 0.001]


def kafka(**changes: Any) -> KafkaStream:
    settings = {
        "kind": "kafka",
        "servers": "127.0.0.1:9",
        "topic": "t",
        "label": "y",
        "features": {"time": ["w", "at"], "categorical": ["c"]},
        "time": "at",
    }
    return KafkaStream(KafkaConfig.model_validate(settings | changes), Path())


def test_messages_have_times_and_the_event_time() -> None:
    """The field of event time is read once, and required."""
    stream = kafka(time_unit="ms", time_format=None)
    reader = stream.decoder.events
    events = [
        {"w": NOON * 1000, "at": NOON * 1000, "c": 1},
        {"w": "2024-05-01T12:00:00Z", "at": NOON * 1000, "c": 1},
        {"w": None, "at": NOON * 1000, "c": 1},
        {"w": NOON, "c": 1},
        {"w": "soon", "at": NOON, "c": 1},
    ]
    table, bad = reader.format.read([json.dumps(event).encode() for event in events])
    assert [row for row, _ in bad] == [3, 4]
    assert bad[0][1] == "column 'at' holds null; expected a time (milliseconds, or ISO 8601)"
    batch = reader.decoder(table, np.zeros(3, np.int32), np.arange(3), np.zeros(3))
    assert batch.time.tolist() == [NOON] * 3
    assert times_of(batch, "at") == [NOON] * 3
    assert times_of(batch) == [NOON, NOON, None]


def test_a_recording_keeps_times() -> None:
    batch = decode([NOON, None, 0.0])
    (again,) = blocks_of(table_of(0, [batch], SCHEMA), SCHEMA, in_rows=False)
    assert times_of(again) == times_of(batch)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "kafka"])
def test_requests_read_times_as_the_stream_does(tmp_path: Path, suffix: str) -> None:
    texts = ["2024-05-01T12:00:00Z", "2024-05-01 14:00:00", ""]
    if suffix == "kafka":
        stream: Any = kafka(time_zone="Europe/Vienna")
    else:
        lines = ["w,at,c,y", *(f"{text},2024-05-01,a,u" for text in texts)]
        (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
        columns = {"w": [MAY, MAY, None], "at": [MAY] * 3, "c": ["a"] * 3, "y": ["u"] * 3}
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        stated = {"time": ["w", "at"], "categorical": ["c"]}
        zone = {"features": stated, "time": "at", "time_zone": "Europe/Vienna"}
        stream = files(tmp_path, path=f"a.{suffix}", **zone)
    recipe = json.loads(json.dumps(_recipe(stream)))
    assert schema_of(recipe).features == stream.schema.features
    reader = RequestReader(recipe)
    events = [*({"w": text, "at": NOON, "c": "a"} for text in texts[:2]), {"at": NOON, "c": "a"}]
    events += [{"w": NOON, "c": "a"}, {"w": None, "at": None, "c": 5}]
    batch = reader.read(events).batch
    assert times_of(batch) == [NOON, NOON, None, NOON, None]
    assert times_of(batch, "at") == [NOON] * 3 + [None] * 2
    with pytest.raises(InvalidEventsError) as refused:
        reader.read([{"w": "soon", "c": "a"}])
    assert "column 'w' holds 'soon'; expected a time" in str(refused.value.details)
    assert reader.event_schema()["properties"]["w"]["type"] == ["number", "string", "null"]
    assert len(reader.read([reader.example()]).batch) == 1


def _recipe(stream: Any) -> dict[str, Any]:
    from pipeline.models.recipe import _as_json

    return {
        "features": [_as_json(feature) for feature in stream.schema.features],
        "task": "classification",
        "classes": [],
        "id_type": stream.id_type,
        "dtype": stream.dtype,
        "json_layout": stream.json_layout(),
    }


def test_fields_of_times_are_read_in_the_unit_of_the_stream() -> None:
    form = make(JsonConfig(kind="json"), fields_of(SCHEMA, TimeReader("ms")), Path())
    table, bad = form.read([b'{"w": 1714564800000, "c": "a"}', b'{"w": "2024-05-01", "c": "b"}'])
    assert not bad
    assert table.column("w").to_pylist() == [NOON, NOON - 43_200]
