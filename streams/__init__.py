"""Events in: what a batch is, where it comes from, how labels meet events.

A stream of one's own is a subclass of ``Stream`` that yields ``Batch`` objects; a job names it by
its import path.
"""

from __future__ import annotations

from streams.core import (
    Batch,
    Cursor,
    DeadLetter,
    Feature,
    Labels,
    LiveStream,
    Ragged,
    Schema,
    Stream,
    StreamConfig,
    StreamError,
)

__all__ = [
    "KINDS",
    "Batch",
    "Cursor",
    "DeadLetter",
    "Feature",
    "Labels",
    "LiveStream",
    "Ragged",
    "Schema",
    "Stream",
    "StreamConfig",
    "StreamError",
]

KINDS: dict[str, str] = {
    "avalanche": "streams.integrations.avalanche:AvalancheStream",
    "hawkes": "streams.integrations.sequences.hawkes:HawkesStream",
    "kafka": "streams.kafka.stream:KafkaStream",
    "movielens-100k": "streams.integrations.movielens:MovieLensStream",
    "recorded": "streams.files.stream:FileStream",
    "recording": "streams.recordings.stream:RecordingStream",
    "river": "streams.integrations.river:RiverStream",
    "scenario": "streams.scenarios.stream:ScenarioStream",
    "taobao": "streams.integrations.sequences.taobao:TaobaoStream",
}
"""The import path of each kind of stream that a job may name."""
