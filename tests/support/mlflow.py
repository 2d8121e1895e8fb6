"""MLflow, and databases that it has set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def client(uri: str) -> Any:
    from pipeline.tracking.mlflow_client import load

    load(uri)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def migrated(file: Path) -> Path:
    """Has MLflow set up a database, which takes it seconds."""
    client(f"sqlite:///{file}").search_experiments()
    return file
