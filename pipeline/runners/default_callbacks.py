"""The callbacks of a run, for every runner."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.callbacks.alert_watcher import AlertWatcher
from pipeline.callbacks.class_spellings import ClassSpellings
from pipeline.callbacks.consumer_lag import ConsumerLag
from pipeline.callbacks.dead_letter_forwarder import DeadLetterForwarder
from pipeline.callbacks.learner_warnings import LearnerWarnings
from pipeline.callbacks.metric_writer import MetricWriter
from pipeline.config.job import Job
from pipeline.training.callback import Callback


def callbacks_for(
    job: Job,
    commits: Callback,
    status: Callback,
    tracker: Callback | None,
    evaluator: Callback | None,
    serving: Sequence[Callback] = (),
) -> list[Callback]:
    """Return the callbacks that a job needs, in the order in which they run.

    Args:
        job: the job.
        commits: commits offsets after each checkpoint.
        status: shows where the run stands.
        tracker: starts the delivery to MLflow; None where the job is not tracked.
        evaluator: takes snapshots for the scoring of probes; None where there is nothing to score.
        serving: feeds the servers of the model.
    """
    lag = ConsumerLag()
    callbacks: list[Callback] = [commits, DeadLetterForwarder(), lag]
    callbacks += [ClassSpellings(), LearnerWarnings(), status]
    if tracker is not None:
        callbacks.append(tracker)
    if job.track is not None:
        callbacks.append(MetricWriter(job.track.every_events, lag))
    callbacks += serving
    if evaluator is not None:
        callbacks.append(evaluator)
    if job.track is not None and job.track.alerts:
        # Last: it checks what the others write.
        callbacks.append(AlertWatcher(job.track.alerts, lag.silence))
    return callbacks
