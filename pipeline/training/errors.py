"""The error of a run, and how the failures of a run are turned into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learners.base import LearnerError
from pipeline.config.errors import JobError
from pipeline.config.job import LoadedJob
from pipeline.dead_letters.limit import TooManyDeadLettersError
from pipeline.storage.checkpoints import CheckpointError, Checkpoints
from pipeline.storage.offset_journal import Journal
from pipeline.storage.run_folder import RunFolder
from pipeline.training.callback import Say
from pipeline.training.event_fates import LedgerError
from streams.core.errors import StreamChangedError, StreamError, one_line


class RunError(Exception):
    """The run failed; its state is kept, and the message says how to resume."""


class RunFailures:
    """Turn the failures of a run into ``RunError``, which says what is kept and how to go on.

    Args:
        loaded: the job.
        folder: the run folder.
        checkpoints: of the run.
        journal: of the run.
        say: takes lines for a person.
    """

    def __init__(
        self,
        loaded: LoadedJob,
        folder: RunFolder,
        checkpoints: Checkpoints,
        journal: Journal,
        say: Say,
    ) -> None:
        self._loaded = loaded
        self._folder = folder
        self._checkpoints = checkpoints
        self._journal = journal
        self._say = say

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the errors of a run into ``RunError``, which says how to resume."""
        try:
            yield
        except (JobError, RunError):  # of a callback that could not start; of the last checkpoint
            raise
        except StreamChangedError as error:
            raise self._changed(f"{self._loaded.file}: {error}") from None
        except (
            StreamError,
            LearnerError,
            CheckpointError,
            LedgerError,
            TooManyDeadLettersError,
        ) as error:
            raise self._failed(f"{self._loaded.file}: {error}") from None
        except OSError as error:
            where = error.filename or self._folder.path
            raise self._failed(f"{error.strerror or one_line(error)}: {where}") from None
        except (Exception, SystemExit) as error:  # a defect, of ours or of a user's class
            what = f"{type(error).__name__}: {one_line(error)} (details: {self._folder.log()})"
            raise self._failed(what) from error

    def _changed(self, what: str) -> RunError:
        """Return the error for a run that cannot be resumed, and how to go on with its model."""
        kept = self._kept()
        if not kept:
            return RunError(f"{what}. No checkpoint had been written yet: start another run")
        way = "another run (another --run-dir)"
        if not self._loaded.learner.opaque:
            way += f" with --warm-from {kept[-1]}, which keeps the model"
        return RunError(
            f"{what}. The state after {int(kept[-1].name)} events is kept; to go on with what the "
            f"stream holds now, start {way}"
        )

    def _kept(self) -> list[Path]:
        """Return the checkpoints on the disk, the newest last."""
        try:
            self._checkpoints.wait()
        except Exception as error:  # the run has failed already; this is only reported
            self._say(f"checkpoint not written: {one_line(error)}")
        return self._checkpoints.all()

    def _failed(self, what: str) -> RunError:
        """Return the error for a run that failed: what failed, and how to resume."""
        kept = self._kept()
        if not kept and self._journal.begun:
            return RunError(
                f"{what}. No checkpoint had been written yet, but the journal says what was read; "
                "when mended, go on with the same command and --resume"
            )
        if not kept:
            return RunError(f"{what}. No checkpoint had been written yet: nothing to go on from")
        return RunError(
            f"{what}. The state after {int(kept[-1].name)} events is kept; when mended, go on with "
            "the same command and --resume"
        )
