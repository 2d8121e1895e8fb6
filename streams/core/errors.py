"""Errors of streams, and error messages on one line."""

from __future__ import annotations

import re

REMEDY = (
    "restore it, or start another run (another --run-dir; --warm-from CHECKPOINT takes over what "
    "was learned)"
)
"""Of data that a run has read and that has changed since."""


class StreamError(Exception):
    """The stream cannot be read: the message names the place and the remedy."""


class StreamChangedError(StreamError):
    """The stream no longer holds what the run goes on from, so the run cannot be resumed."""


LINE_LENGTH = 500


_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


def one_line(error: BaseException | str) -> str:
    """Return the message of an error on one line of printable characters, without escape sequences,
    cut at ``LINE_LENGTH``; the name of its class if there is no message."""
    try:
        text = str(error)
    except Exception:  # an error of a user's class whose ``str`` fails
        text = ""
    text = " ".join(_ESCAPES.sub("", text).split())
    text = "".join(character for character in text if character.isprintable())
    if len(text) > LINE_LENGTH:
        text = text[: LINE_LENGTH - 3] + "..."
    return text or type(error).__name__
