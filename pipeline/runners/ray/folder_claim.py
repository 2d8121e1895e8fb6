"""Claim the run folder for a driver."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.storage.run_folder import FolderLockedError, RunFolder

RETRY_S = 0.25


def claim_folder(
    folder: RunFolder, token: str, resume: bool, timeout: float, stopping: Callable[[], bool]
) -> None:
    """Write the driver's token into the folder; the trainer will lock it.

    Where a run resumes, the trainer of a driver that was killed may still be dying.

    Args:
        folder: the run folder.
        token: by which the actors know that they see the same folder.
        resume: whether the run goes on; else its old results are deleted.
        timeout: seconds to wait for a lock on a folder that resumes.
        stopping: returns whether the run is to stop.

    Raises:
        FolderLockedError: another process has the folder.
        JobError: the folder has a run that is not to go on, or cannot be written.
    """
    deadline = time.monotonic() + (timeout if resume else 0.0)
    while True:
        try:
            with folder.lock():
                folder.check(resume)
                folder.claim(token, resume)
            return
        except FolderLockedError:
            if stopping() or time.monotonic() >= deadline:
                raise
            time.sleep(RETRY_S)
