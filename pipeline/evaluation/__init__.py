"""Metrics: prequential scores, forgetting, retention, plasticity, probes, alerts."""
