"""The codes of classes by their names."""

from __future__ import annotations

import numpy as np

from learners.base import LearnerError
from streams.core.batch import ClassName, Ints
from streams.core.settings import unknown


def codes_of(names: tuple[ClassName, ...], classes: tuple[ClassName, ...]) -> Ints:
    """Return the codes of classes by name. Raise ``LearnerError`` where one is not known.

    Args:
        names: of some classes, (n,).
        classes: the names of all classes, by code.
    """
    codes = {name: code for code, name in enumerate(classes)}
    for name in names:
        if name not in codes:
            raise LearnerError(f"there is no class {unknown(str(name), map(str, codes))}")
    return np.array([codes[name] for name in names], np.int64)
