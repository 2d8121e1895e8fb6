"""All rules by the names that a job file calls them."""

from __future__ import annotations

from buffers.admission import Admission, ClassBalanced, RandomInsert, Reservoir, Ring
from buffers.age import Exponential, PowerLaw
from buffers.candidates import HighestLoss, MaximalInterference
from buffers.forgetting_curve import ForgettingCurve
from buffers.herding import Herding
from buffers.recall import Recall, Uniform
from buffers.repeated_random import RepeatedRandom
from buffers.view_batch import ViewBatch

ADMISSIONS: dict[str, type[Admission]] = {
    rule.name: rule for rule in (Reservoir, Ring, RandomInsert, ClassBalanced, Herding)
}
RECALLS: dict[str, type[Recall]] = {
    rule.name: rule
    for rule in (
        Uniform,
        ForgettingCurve,
        ViewBatch,
        PowerLaw,
        Exponential,
        HighestLoss,
        MaximalInterference,
        RepeatedRandom,
    )
}
