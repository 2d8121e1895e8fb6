"""The lazy import of the libraries of encoders."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from learners.base import LearnerError
from streams.core.errors import one_line
from streams.integrations.torchvision_library import import_torchvision


def import_extra(module: str, extra: str, kind: str) -> Any:
    """Return a module of an extra.

    Args:
        module: its import path.
        extra: that installs it.
        kind: of the encoder that needs it.

    Raises:
        LearnerError: it is not installed, or cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(ModuleNotFoundError):  # several libraries import it where it is installed
                import_torchvision()
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise LearnerError(
            f"encoder {kind!r} needs {package}, which is not installed: "
            f"pip install 'everlearn[{extra}]'"
        ) from None
    except Exception as error:  # whatever a library raises beside versions that do not suit it
        raise LearnerError(f"{module} cannot be imported: {one_line(error)}") from error


@contextmanager
def transformers_library(kind: str) -> Iterator[Any]:
    """Give transformers, without its progress bars and without threads of its tokenizers.

    Raises:
        LearnerError: it is not installed, or cannot be imported.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    library = import_extra("transformers", "text", kind)
    logging = library.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield library
    finally:
        if shown:
            logging.enable_progress_bar()
