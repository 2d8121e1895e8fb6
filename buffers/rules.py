"""All rules by the names that a job file calls them."""

from __future__ import annotations

from buffers.admission import Admission, ClassBalanced, Reservoir, Ring
from buffers.recall import Recall, Uniform

ADMISSIONS: dict[str, type[Admission]] = {
    rule.name: rule for rule in (Reservoir, Ring, ClassBalanced)
}
RECALLS: dict[str, type[Recall]] = {rule.name: rule for rule in (Uniform,)}
