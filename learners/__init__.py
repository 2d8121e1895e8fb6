"""Continual learners: predict, learn, save. Each method is one file."""

from __future__ import annotations

KINDS: dict[str, str] = {
    "avalanche": "learners.avalanche:AvalancheLearner",
    "der++": "learners.der_plus_plus:DerPlusPlus",
    "er-ace": "learners.er_ace:ErAce",
    "ewc": "learners.ewc:Ewc",
    "finetune": "learners.finetune:Finetune",
    "joint": "learners.joint:Joint",
    "lwf": "learners.lwf:Lwf",
    "no-change": "learners.no_change:NoChange",
    "prior": "learners.prior:Prior",
    "replay": "learners.replay:Replay",
    "river": "learners.river:River",
    "view-batch": "learners.view_batch:ViewBatch",
}
"""The import path of each kind of learner that a job may name."""
