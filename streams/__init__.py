"""Events in: what a batch is, where it comes from, how labels meet events."""

from __future__ import annotations

KINDS: dict[str, str] = {
    "avalanche": "streams.integrations.avalanche:AvalancheStream",
    "kafka": "streams.kafka.stream:KafkaStream",
    "recorded": "streams.files.stream:FileStream",
    "recording": "streams.recordings.stream:RecordingStream",
    "river": "streams.integrations.river:RiverStream",
    "scenario": "streams.scenarios.stream:ScenarioStream",
}
"""The import path of each kind of stream that a job may name."""
