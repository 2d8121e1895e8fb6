"""The rows of the study of learners inside a frozen transformer, and what is tried for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ADAM = "optimizer={kind: adam, lr: %s}"
NETWORKS = [
    f"{ADAM % lr},steps={steps},model={{kind: mlp, hidden: [128]}}"
    for lr in (0.001, 0.003, 0.01)
    for steps in (1, 4)
]
TRIED: Mapping[str, tuple[str, Sequence[str]]] = {
    "linear-probe": (
        "online_accuracy",
        [
            *(f"linear-probe:{ADAM % lr}" for lr in (0.001, 0.003, 0.01, 0.03)),
            *(f"linear-probe:optimizer={{kind: sgd, lr: {lr}}}" for lr in (0.1, 1)),
        ],
    ),
    "joint": ("acc", [f"joint:{network}" for network in NETWORKS]),
    "replay": ("acc", [f"replay:{network}" for network in NETWORKS]),
    "rls": ("acc", ["rls", *(f"rls:half_life={events}" for events in (100, 300, 1000, 3000))]),
}
"""What is tried on validation rows, with one seed, and the metric of the best."""
BEST = "best of "
"""Begins a learner that is the best of those in ``TRIED``."""


@dataclass(frozen=True)
class Setting:
    """A scenario of the tables.

    Attributes:
        scenario: of ``everlearn bench``.
        title: what stands above the table.
        note: what else is to be said.
        overrides: of all jobs.
        tests: the most test rows of a task: a fixed choice, the same for all.
        base: the arm that others are compared with.
        on_vectors: learners on vectors of the encoder, by the names of their rows.
        inside: learners inside the transformer, by the names of their rows.
        pairs: rows whose difference is of interest, and what it shows.
    """

    scenario: str
    title: str
    note: str
    overrides: tuple[str, ...]
    tests: int
    base: str
    on_vectors: Mapping[str, str]
    inside: Mapping[str, str]
    pairs: Mapping[str, tuple[str, str]]

    @property
    def arms(self) -> dict[str, str]:
        """The learner of each row."""
        return {**self.on_vectors, **self.inside}


QUERIED = ("l2p", "dual-prompt", "coda")
"""Learners that need the whole encoder too."""
RANPAC = "ranpac:refit_growth=3"
HEAD = "head={kind: ranpac, refit_growth: 3}"
ALWAYS = "train_for=null"
EXPERTS = "masks=task"
UNALIGNED = "alignment=none,ensemble=false"
BLIND = "every=150,most=30"
"""Segments that do not end where contexts do."""
SCENARIOS: Mapping[str, Setting] = {
    "clinc150": Setting(
        "clinc150",
        "CLINC150: 150 intents in 10 tasks",
        "A task is a domain of 15 intents. Of the official test rows 200 for each task, a fixed "
        "choice.",
        ("stream.events=600",),
        200,
        "ranpac",
        {
            "linear-probe": "linear-probe",
            "linear-probe, best": f"{BEST}linear-probe",
            "prototype": "prototype",
            "slda": "slda",
            "aligned-linear": "aligned-linear",
            "ranpac": RANPAC,
            "joint": f"{BEST}joint",
        },
        {
            "l2p": "l2p",
            "dual-prompt": "dual-prompt",
            "coda": "coda",
            "l2p, always trained": f"l2p:{ALWAYS}",
            "dual-prompt, always trained": f"dual-prompt:{ALWAYS}",
            "dual-prompt, expert by 500 events": f"dual-prompt:{ALWAYS},{EXPERTS},every=500",
            "dual-prompt, expert by task": f"dual-prompt:{ALWAYS},{EXPERTS}",
            "coda, always trained": f"coda:{ALWAYS}",
            "adapter": "adapter",
            "adapter-first, slda": "adapter-first",
            "adapter-first, ranpac": f"adapter-first:{HEAD}",
            "mos": "mos",
            "mos, as in the paper": "mos:retrieval=prototype,merge=0.1,orthogonality=0.1"
            ",alignment=sgd",
            "mos, merge 0.1": "mos:merge=0.1",
            "mos, no refinement": "mos:refine=0",
            "mos, no ensemble": "mos:ensemble=false",
            "mos, alignment by draws": "mos:alignment=sgd",
            "mos, no alignment": "mos:alignment=none",
            "mos, no alignment, no ensemble": f"mos:{UNALIGNED}",
            "mos, layer of rate 1, no ensemble": f"mos:{UNALIGNED},layer_rate=1",
            "mos, one adapter": "mos:every=null",
            "mos, no adapters": "mos:adapters=false",
            "mos, tasks known": "mos:every=segment",
            "mos, on a drift signal": "mos:every=drift",
        },
        {
            "adapter-first under ranpac, less ranpac": ("adapter-first, ranpac", "ranpac"),
            "mos: merge 0.1, less 0": ("mos, merge 0.1", "mos"),
            "mos: refinement": ("mos", "mos, no refinement"),
            "mos: alignment": ("mos", "mos, no alignment"),
            "mos: alignment, without ensemble": (
                "mos, no ensemble",
                "mos, no alignment, no ensemble",
            ),
            "mos: closed form, less draws": ("mos", "mos, alignment by draws"),
            "mos: ensemble": ("mos", "mos, no ensemble"),
            "mos: adapters, less frozen features": ("mos", "mos, no adapters"),
            "mos: an adapter for each 500 events, less one": ("mos", "mos, one adapter"),
            "mos: tasks known, less every 500 events": ("mos, tasks known", "mos"),
            "mos: tasks known, less a drift signal": ("mos, tasks known", "mos, on a drift signal"),
        },
    ),
    "clinc150-contexts": Setting(
        "clinc150-contexts",
        "CLINC150 in ten contexts that share five labels",
        "The ten domains come in turn, twice, with 200 events each time. Of 15 intents of a domain "
        "three have the\nsame label, by chance. Of the official test rows 60 for each domain.",
        ("stream.events=200",),
        60,
        "slda",
        {
            "prototype": "prototype",
            "slda": "slda",
            "ranpac": "ranpac",
            "ranpac, few solves": RANPAC,
            "rls": f"{BEST}rls",
            "linear-probe, best": f"{BEST}linear-probe",
            "replay": f"{BEST}replay",
        },
        {
            "l2p, always trained": f"l2p:{ALWAYS}",
            "dual-prompt, always trained": f"dual-prompt:{ALWAYS}",
            "adapter": "adapter",
            "mos": f"mos:{BLIND}",
            "mos, no adapters": f"mos:{BLIND},adapters=false",
            "mos, alignment by draws": f"mos:{BLIND},alignment=sgd",
            "mos, no ensemble": f"mos:{BLIND},ensemble=false",
            "mos, no alignment, no ensemble": f"mos:{BLIND},{UNALIGNED}",
            "mos, contexts known": "mos:every=segment,most=30",
            "mos, on a drift signal": "mos:every=drift,most=30",
        },
        {
            "mos: adapters, less frozen features": ("mos", "mos, no adapters"),
            "mos: closed form, less draws": ("mos", "mos, alignment by draws"),
            "mos: alignment, without ensemble": (
                "mos, no ensemble",
                "mos, no alignment, no ensemble",
            ),
            "mos: contexts known, less every 150 events": ("mos, contexts known", "mos"),
            "mos: contexts known, less a drift signal": (
                "mos, contexts known",
                "mos, on a drift signal",
            ),
        },
    ),
}
