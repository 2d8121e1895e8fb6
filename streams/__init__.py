"""Events in: what a batch is, where it comes from, how labels meet events."""

from __future__ import annotations

KINDS: dict[str, str] = {
    "avalanche": "streams.integrations.avalanche:AvalancheStream",
    "kafka": "streams.kafka.stream:Kafka",
    "recorded": "streams.files.stream:Recorded",
    "recording": "streams.recordings.stream:Recording",
    "river": "streams.integrations.river:River",
    "scenario": "streams.scenarios.stream:Scenario",
}
"""The import path of each kind of stream that a job may name."""
