"""Class names that differ only in spelling: in Unicode form, in spaces or in case.

Names are classes as they are written: two spellings are two classes. A warning names them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable

from streams.core.batch import ClassName


def _composed(text: str) -> str:
    """Return a text in one Unicode form (NFKC), without invisible characters."""
    composed = unicodedata.normalize("NFKC", text)
    return "".join(c for c in composed if unicodedata.category(c) != "Cf")


def _single_spaced(text: str) -> str:
    return " ".join(text.split())


_ASPECTS: dict[str, Callable[[str], str]] = {
    "Unicode form": _composed,
    "spaces": _single_spaced,
    "case": str.casefold,
}


def spelling(name: ClassName, without: str = "") -> ClassName:
    """Return a name as all its spellings have it; a number is its own spelling.

    Args:
        name: the name.
        without: an aspect of spelling that is left as it is.
    """
    if isinstance(name, str):
        for aspect, common in _ASPECTS.items():
            if aspect != without:
                name = common(name)
    return name


def lookalikes(names: Iterable[ClassName]) -> list[tuple[ClassName, ...]]:
    """Return the groups of names that differ only in spelling, in the order of the names."""
    groups: dict[ClassName, list[ClassName]] = {}
    for name in dict.fromkeys(names):
        if isinstance(name, str):
            groups.setdefault(spelling(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def difference(one: ClassName, *others: ClassName) -> str:
    """Return in what spellings of one name differ: ``case``, or ``spaces and case``."""
    differing = [
        aspect
        for aspect in _ASPECTS
        if any(spelling(one, aspect) != spelling(other, aspect) for other in others)
    ]
    alone = [  # a no-break space is another Unicode form, and another space
        aspect
        for aspect, common in _ASPECTS.items()
        if len({common(str(name)) for name in (one, *others)}) == 1
    ]
    return " and ".join(differing or alone[-1:]) or "Unicode form"


def shown(name: ClassName) -> str:
    """Return a name with what cannot be seen in it: escaped where it is not in NFC form."""
    text = repr(name)
    plain = unicodedata.is_normalized("NFC", text) and text.isprintable()
    return text if plain else ascii(name)


def warning_of(names: tuple[ClassName, ...]) -> str:
    """Return the warning about classes that differ only in spelling."""
    listed = ", ".join(map(shown, names[:5])) + (", ..." if len(names) > 5 else "")
    return (
        f"the classes {listed} differ only in {difference(*names)}, and each is a "
        "class of its own: write them alike where they are made"
    )
