"""The names of all metrics that a run may log, to find a misspelt one before it starts."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields

from pipeline.evaluation.online.sequence_metrics import COLUMNS as SEQUENCE_METRICS
from pipeline.evaluation.transfer_and_forgetting import ContinualMetrics

_ONLINE = (
    "scored abstained label_lag kappa_temporal "
    "accuracy accuracy_window accuracy_fading balanced_accuracy balanced_accuracy_window "
    "kappa kappa_window log_loss log_loss_window log_loss_fading auc auc_window "
    "precision precision_window recall recall_window f1 f1_window "
    "macro_precision macro_precision_window macro_recall macro_recall_window "
    "macro_f1 macro_f1_window average_precision average_precision_window "
    "brier brier_window calibration_error calibration_error_window "
    "calibration_ratio calibration_ratio_window gauc gauc_window "
    "no_change_accuracy no_change_accuracy_window mae mae_window mae_fading "
    "rmse rmse_window rmse_fading "
    "no_change_mae no_change_mae_window no_change_rmse no_change_rmse_window"
)
_OF_SEQUENCES = [f"{name}{form}" for name in SEQUENCE_METRICS for form in ("", "_window")]
_SERVED = (
    "requests failed scored late accuracy accuracy_window mae mae_window "
    "precision precision_window recall recall_window f1 f1_window "
    "macro_precision macro_precision_window macro_recall macro_recall_window "
    "macro_f1 macro_f1_window "
    "model_age_p50_s model_age_p99_s answer_p50_s answer_p99_s"
)
_STABILITY = (
    "segments probes missed mae nll knowledge_loss acc_low acc_high forgetting_low forgetting_high "
    "forgetting_initial_low forgetting_initial_high"
)
_PLASTICITY = "knowledge_gain dormant_units dead_units effective_rank stable_rank weight_norm"
_SYSTEM = (
    "events_per_s awaiting memory_mb checkpoint_s evaluation_s freshness_s lag "
    "seconds_since_last_message encoder_rows_per_s "
    "feature_cache_hits feature_cache_misses feature_cache_mb"
)
_OTHERS = "retention/once_seen replay/stored"
_PATTERNS = (
    r"learner/\w+",  # a learner may publish statistics of its own
    r"retention/after_\d+[km]?(_low|_high|_count)?",
    r"replay/\w+_(mean|p\d+)",  # a policy of recall may publish values of its own
    r"system/seconds_since_last_message/.+",  # a topic, or one of its partitions
)


def names() -> list[str]:
    """Return the names of the metrics, without those that have a variable part."""
    # Which of the two groups a metric of tasks is logged under is read from one that has values.
    tasks = ContinualMetrics(**dict.fromkeys((f.name for f in fields(ContinualMetrics)), 0.0))
    groups = (
        ("online", _ONLINE),
        ("served", _SERVED),
        ("stability", _STABILITY),
        ("plasticity", _PLASTICITY),
        ("system", _SYSTEM),
    )
    found = [f"{group}/{name}" for group, words in groups for name in words.split()]
    found += [f"online/{name}" for name in _OF_SEQUENCES]
    return [*found, *tasks.named(), *_OTHERS.split()]


def unknown_metric(name: str) -> str | None:
    """Return what is wrong with the name of a metric, with the nearest one; None: it is known."""
    known = names()
    if name in known or any(re.fullmatch(pattern, name) for pattern in _PATTERNS):
        return None
    if "/" not in name:  # the group is left out
        inside = [each for each in known if each.endswith(f"/{name}")]
        near = inside or difflib.get_close_matches(f"online/{name}", known, n=1, cutoff=0.5)
    else:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else "."
    return f"{name!r} is no metric{hint} docs/metrics.md lists them all"
