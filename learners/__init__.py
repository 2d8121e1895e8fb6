"""Learners: methods that predict, learn from labels as they arrive, and save what they know.

Each method is one file. A job names it by its kind (``KINDS``) or by an import path.

- ``base`` defines the contract: ``Learner``, ``LearnerConfig``, ``LearnerError``,
  ``NotFiniteError``, ``Prediction`` and ``BufferSummary``.
- ``registry`` finds a class by kind or import path.
- ``checks`` tests whether a class keeps the contract: ``check_learner`` and ``checks_for``.
- ``networks`` holds what learners that train one network share.
- ``baselines``, ``rehearsal``, ``regularization``, ``pretrained``, ``recommenders``, ``sequences``
  and ``integrations`` hold the methods.

``import learners`` loads none of these modules: a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from learners.base import (
        Learner,
        LearnerConfig,
        LearnerError,
        NotFiniteError,
    )
    from learners.checks import check_learner, checks_for
    from learners.results import BufferSummary, Prediction

KINDS: dict[str, str] = {
    "adapter": "learners.pretrained.adapters.adapter:Adapter",
    "adapter-first": "learners.pretrained.adapters.adapter_first:AdapterFirst",
    "aligned-linear": "learners.pretrained.adapters.aligned_linear:AlignedLinear",
    "avalanche": "learners.integrations.avalanche:AvalancheLearner",
    "click-model": "learners.recommenders.click_model:ClickModel",
    "coda": "learners.pretrained.prompts.coda:Coda",
    "der++": "learners.rehearsal.der_plus_plus:DerPlusPlus",
    "dkvb": "learners.pretrained.bottleneck.learner:DiscreteBottleneck",
    "dual-prompt": "learners.pretrained.prompts.dual_prompt:DualPrompt",
    "er-ace": "learners.rehearsal.er_ace:ErAce",
    "error-memory": "learners.retrieval.error_memory:ErrorMemoryLearner",
    "ewc": "learners.regularization.ewc:Ewc",
    "fecam": "learners.pretrained.closed_form.fecam:Fecam",
    "finetune": "learners.baselines.finetune:Finetune",
    "ftrl": "learners.recommenders.ftrl:Ftrl",
    "hawkes": "learners.sequences.controls.hawkes:Hawkes",
    "joint": "learners.rehearsal.joint:Joint",
    "knn": "learners.pretrained.closed_form.knn:Knn",
    "l2p": "learners.pretrained.prompts.l2p:L2P",
    "last-type": "learners.sequences.controls.last_type:LastType",
    "linear-probe": "learners.baselines.linear_probe:LinearProbe",
    "lwf": "learners.regularization.lwf:Lwf",
    "mos": "learners.pretrained.adapters.mos:Mos",
    "no-change": "learners.baselines.no_change:NoChange",
    "poisson": "learners.sequences.controls.poisson:Poisson",
    "popular-type": "learners.sequences.controls.popular_type:PopularType",
    "prior": "learners.baselines.prior:Prior",
    "prompt-tpp": "learners.sequences.prompt_tpp:PromptTpp",
    "prototype": "learners.pretrained.closed_form.prototype:Prototype",
    "ranpac": "learners.pretrained.closed_form.ranpac:Ranpac",
    "recent-history": "learners.sequences.controls.recent_history:RecentHistory",
    "replay": "learners.rehearsal.replay:Replay",
    "river": "learners.integrations.river:RiverLearner",
    "rls": "learners.pretrained.closed_form.rls:Rls",
    "segment-residuals": "learners.retrieval.segment_residuals:SegmentResiduals",
    "slda": "learners.pretrained.closed_form.slda:Slda",
    "tpp": "learners.sequences.tpp:Tpp",
    "view-batch": "learners.rehearsal.view_batch:ViewBatch",
}
"""The import path of each kind of learner that a job may name."""

__all__ = [
    "KINDS",
    "BufferSummary",
    "Learner",
    "LearnerConfig",
    "LearnerError",
    "NotFiniteError",
    "Prediction",
    "check_learner",
    "checks_for",
]

_MODULES = {
    "BufferSummary": "learners.results",
    "Learner": "learners.base",
    "LearnerConfig": "learners.base",
    "LearnerError": "learners.base",
    "NotFiniteError": "learners.base",
    "Prediction": "learners.results",
    "check_learner": "learners.checks",
    "checks_for": "learners.checks",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
