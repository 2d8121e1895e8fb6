"""Regularization: learners that hold on to old weights or outputs, and need task boundaries.

``Ewc`` penalises changes of important weights, ``Lwf`` distils the network of before the task.
``Segmented`` and ``SegmentedConfig`` are their base: they detect where a task ends.
"""

from __future__ import annotations

from learners.regularization.base import Segmented, SegmentedConfig
from learners.regularization.ewc import Ewc, EwcConfig
from learners.regularization.lwf import Lwf, LwfConfig

__all__ = ["Ewc", "EwcConfig", "Lwf", "LwfConfig", "Segmented", "SegmentedConfig"]
