"""What a runner of jobs is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pipeline.callbacks.progress import LiveProgress


class JobRunner(Protocol):
    """Runs one job, in this process or on a cluster."""

    @property
    def stopping(self) -> bool:
        """Whether the run has been asked to stop."""

    def stop(self) -> None:
        """Stop after the current micro-batch, with a checkpoint."""

    def run(
        self,
        resume: bool,
        warm_from: Path | None,
        max_events: int | None,
        progress: LiveProgress,
    ) -> dict[str, Any]:
        """Run the job, as ``Run.run``; write and return the summary.

        Raises:
            JobError: nothing was started.
            RunError: the run failed; the state up to the last checkpoint is kept.
        """
