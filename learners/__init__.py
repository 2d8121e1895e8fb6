"""Continual learners: predict, learn, save. Each method is one file."""

from __future__ import annotations

KINDS: dict[str, str] = {
    "avalanche": "learners.integrations.avalanche:AvalancheLearner",
    "der++": "learners.rehearsal.der_plus_plus:DerPlusPlus",
    "er-ace": "learners.rehearsal.er_ace:ErAce",
    "ewc": "learners.regularization.ewc:Ewc",
    "finetune": "learners.baselines.finetune:Finetune",
    "joint": "learners.rehearsal.joint:Joint",
    "lwf": "learners.regularization.lwf:Lwf",
    "no-change": "learners.baselines.no_change:NoChange",
    "prior": "learners.baselines.prior:Prior",
    "replay": "learners.rehearsal.replay:Replay",
    "river": "learners.integrations.river:RiverLearner",
    "view-batch": "learners.rehearsal.view_batch:ViewBatch",
}
"""The import path of each kind of learner that a job may name."""
