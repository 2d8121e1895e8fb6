"""Features that the events of a request leave out: by intent, or by a mistake in a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

from streams.core.settings import unknown
from streams.decoding.formats.python_values import show

_NEAREST_OF = 100  # names among which the nearest to a misspelt one is searched: it takes time
States = Callable[[dict[str, Any], str], bool]
_MIN_LENGTH = 4  # of a name that may be misspelt by a letter: shorter ones often differ by one


class LeftOut:
    """Tells a feature that an event may do without from one whose name is misspelt.

    A feature that is null is stated. One that is left out is taken for missing, as in the stream,
    unless the event has a field that nothing reads, and whose name is that of the feature but for
    case, separators, or one letter (added, lacking, replaced, or swapped with the next).

    Args:
        features: the names of the features.
        known: all names of fields that are read.
        states: whether an event states a value of a name, if only null.
        nested: whether a name with dots is a path into objects.
    """

    def __init__(
        self, features: Sequence[str], known: Set[str], states: States, nested: bool
    ) -> None:
        self._features = features
        self._known = known
        self._states = states
        self._nested = nested
        self._roots = {name.split(".")[0] for name in known} if nested else known

    def reason(self, event: dict[str, Any]) -> str | None:
        """Return why an event that lacks features is refused; None: it is not."""
        missing = self._missing(event)
        for name in missing:
            if self._nested and "." in name and name in event:
                return f"column {name!r} is left out"
        for key in self._unread(event):
            for name in missing:
                if _near(key, name.split(".")[0] if self._nested else name):
                    return f"column {name!r} is left out, and nothing reads {show(key)}"
        return None

    def hint(self, event: dict[str, Any], required: Sequence[str]) -> str | None:
        """Return which features a refused event leaves out, and which of its fields nothing reads.

        Args:
            event: the event.
            required: the names of features without which an event is refused.
        """
        missing = self._missing(event)
        if len(missing) < len(self._features) and self.reason(event) is None:
            missing = [name for name in missing if name in required]
        if not missing:
            return None
        few = ", ".join(map(repr, missing[:5]))
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        hint = f"missing: {few}{more}"
        if paths := [name for name in missing if name in event]:
            return f"{hint}; {paths[0]!r} is a path: {_nested_example(paths[0])} is wanted"
        unread = self._unread(event)
        if unread and len(self._known) <= _NEAREST_OF:
            return f"{hint}; unknown column {unknown(unread[0], sorted(self._known))}"
        return f"{hint}; unknown column {show(unread[0])}" if unread else hint

    def _missing(self, event: dict[str, Any]) -> list[str]:
        """Return the features that an event does not state, not even as null."""
        return [name for name in self._features if not self._states(event, name)]

    def _unread(self, event: dict[str, Any]) -> list[str]:
        return [key for key in event if key not in self._roots]


def _near(key: str, name: str) -> bool:
    """Whether a key is a name but for case, separators or one letter."""
    if _plain(key) == _plain(name):
        return True
    start = 0
    while start < min(len(key), len(name)) and key[start] == name[start]:
        start += 1
    a, b = key[start:], name[start:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    last = len(a) == len(b) == 1 and key[:-1] == name[:-1]
    one_letter = max(len(a), len(b)) == 1 or (len(a) == 2 and a == b[::-1])
    digits = any(letter.isdigit() for letter in a + b)
    siblings = last or digits  # as item_a and item_b, x1 and x2
    return one_letter and not siblings and min(len(key), len(name)) >= _MIN_LENGTH


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _nested_example(name: str) -> str:
    *path, last = name.split(".")
    text = f'{{"{last}": ...}}'
    for step in reversed(path):
        text = f'{{"{step}": {text}}}'
    return text
