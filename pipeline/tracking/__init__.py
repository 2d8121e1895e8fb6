"""Metrics and artifacts to MLflow, alerts to webhooks."""
