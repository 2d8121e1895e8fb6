"""The most popular type, with decay."""

from __future__ import annotations

from pydantic import PositiveFloat

from learners.sequences.controls.base import CountsConfig
from learners.sequences.controls.poisson import Poisson


class PopularTypeConfig(CountsConfig):
    """Settings of ``popular-type``: those of ``poisson``, with decay."""

    half_life: PositiveFloat | None = 1000.0


class PopularType(Poisson):
    """Predict the type that came most often of late, to any key: ``poisson`` with rates that fade.

    On some public data attentive models have not beaten it.
    """

    kind = "popular-type"
    Config = PopularTypeConfig
