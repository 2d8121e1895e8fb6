"""Job keys that were renamed: the former names keep working, in job files, ``--set`` and the
fingerprints of earlier checkpoints, journals and recordings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import learners
import streams
from learners.base import Learner
from learners.registry import find
from streams.core.settings import Settings
from streams.core.stream import Stream
from streams.core.stream_config import StreamConfig

log = logging.getLogger(__name__)

_CURRENT = {f"stream.{old}": f"stream.{new}" for old, new in StreamConfig.former_names().items()}
"""Current names of the renamed keys in fingerprints: those of all streams. (The other renamed key,
``stream.ahead`` of Kafka, is in no fingerprint.)"""


def current_fingerprint(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint ``old`` with the key names of ``new``."""
    return {
        _CURRENT[key] if key in _CURRENT and key not in new else key: value
        for key, value in old.items()
    }


def other_spelling(raw: Mapping[str, Any], part: str, key: str) -> str | None:
    """Return the other name of ``key`` in ``part`` (``stream`` or ``learner``) of a job, if it has
    one: the current name of a former one, or the reverse."""
    config = _config(raw, part)
    names = {} if config is None else config.former_names()
    return (names | {new: old for old, new in names.items()}).get(key)


def log_former_names(raw: Mapping[str, Any], configs: Mapping[str, type[Settings]]) -> None:
    """Log one line that names the former names in a job, if it has any; and one for each setting
    that has no effect any more.

    Args:
        raw: the job as written.
        configs: the class of the settings of each part of the job.
    """
    renamed = [
        f"{part}.{old} is now {part}.{new}"
        for part, config in configs.items()
        for old, new in config.former_names().items()
        if old in raw[part]
    ]
    if renamed:
        works = "the old name still works" if len(renamed) == 1 else "the old names still work"
        log.warning("%s; %s", ", ".join(renamed), works)
    for part, config in configs.items():
        for line in config.advice(raw[part]):
            log.warning("%s.%s", part, line)


def _config(raw: Mapping[str, Any], part: str) -> type[Settings] | None:
    """Return the class of the settings of a part of a job; None where it cannot be found."""
    kinds: dict[str, tuple[Mapping[str, str], type[Any]]] = {
        "stream": (streams.KINDS, Stream),
        "learner": (learners.KINDS, Learner),
    }
    if part not in kinds:
        return None
    try:
        config: type[Settings] = find(*kinds[part], raw[part]["kind"]).Config
    except Exception:  # the check of the job says what is wrong with the kind
        return None
    return config
