"""The terminal: messages on standard error, exit statuses, and the log of a defect."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console, RenderableType

from pipeline.config.errors import JobError
from streams.core.errors import one_line

Errors = tuple[type[Exception], ...]


@cache
def stderr_console() -> Console:
    """Return the one console on standard error: progress bars and messages must share it."""
    return Console(stderr=True)


def say(message: str) -> None:
    """Print one message on standard error."""
    stderr_console().print(f"everlearn: {message}", highlight=False, markup=False, soft_wrap=True)


def print_result(*parts: RenderableType) -> None:
    """Print a result on standard output; report where that fails."""
    try:
        Console().print(*parts)
    except OSError as error:
        say(f"the table cannot be printed: {error.strerror}")


@contextmanager
def reports_errors(
    refused: Errors = (JobError,),
    failed: Errors = (),
    advice: str = "",
    interrupted: str | None = None,
    started: bool = True,
) -> Iterator[None]:
    """Report an error as a message and exit with its status; use as a decorator or in ``with``.

    The statuses are 2 where nothing has started and 1 where something has. An exception of no class
    below is a defect: its stack trace goes to a file that the message names.

    Args:
        refused: errors before anything starts, a problem a line: status 2.
        failed: errors of work that has started: status 1.
        advice: appended to the message of a ``failed`` error.
        interrupted: message after Ctrl-C, with status 1; None: Ctrl-C is not handled here.
        started: whether work has started when a defect shows.
    """
    try:
        yield
    except refused as error:
        for problem in str(error).splitlines():
            say(problem)
        sys.exit(2)
    except failed as error:
        say(f"{error}{advice}")
        sys.exit(1)
    except KeyboardInterrupt:
        if interrupted is None:
            raise
        say(interrupted)
        sys.exit(1)
    except Exception as error:
        state = "" if started else ". Nothing was started"
        say(f"{type(error).__name__}: {one_line(error)}{state}{_log()}")
        sys.exit(1 if started else 2)


def _log() -> str:
    """Write the current stack trace to a file and return a sentence that names the file."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="everlearn-", suffix=".log", delete=False
        ) as file:
            file.write(traceback.format_exc())
    except OSError:
        return ""
    return f". Details: {file.name}"
