"""The lazy import of torchvision beside a build of torch that is not its own."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def import_torchvision() -> Any:
    """Import torchvision, and return an object that must live as long as it is in use.

    Its compiled part is missing if torch was built differently. The import then fails at a
    detection operator that nothing here calls; once that is declared, the rest can be imported.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            takes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(name + takes)  # type: ignore[no-untyped-call]
        importlib.import_module("torchvision")
        return library
    return None
