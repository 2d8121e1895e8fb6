"""All rules by the names that a job file calls them."""

from __future__ import annotations

from buffers.admission.base import Admission
from buffers.admission.class_balanced import ClassBalanced
from buffers.admission.herding import Herding
from buffers.admission.reservoir import Reservoir
from buffers.admission.ring import RandomInsert, Ring
from buffers.recall.base import Recall, Uniform
from buffers.recall.by_age import Exponential, PowerLaw
from buffers.recall.by_forgetting_curve import ForgettingCurve
from buffers.recall.by_loss import HighestLoss, MaximalInterference
from buffers.recall.repeated_random import RepeatedRandom
from buffers.recall.when_due import WhenDue

ADMISSIONS: dict[str, type[Admission]] = {
    rule.name: rule for rule in (Reservoir, Ring, RandomInsert, ClassBalanced, Herding)
}
RECALLS: dict[str, type[Recall]] = {
    rule.name: rule
    for rule in (
        Uniform,
        ForgettingCurve,
        WhenDue,
        PowerLaw,
        Exponential,
        HighestLoss,
        MaximalInterference,
        RepeatedRandom,
    )
}
