"""When alerts fire and end, by an oracle; and which metrics they may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.job import load
from pipeline.config.sections import Alert
from pipeline.evaluation.alerts import Alerts
from pipeline.evaluation.metric_names import names, unknown_metric
from pipeline.storage.metric_log import Row, read_rows
from pipeline.training.builder import build

M = "online/mae"


def changes(alert: Alert, rows: list[Row]) -> list[tuple[int, bool]]:
    """Return the steps at which an alert starts and ends; it is made anew before each row."""
    found, state = [], Alerts((alert,), {})
    for row in rows:
        state = Alerts((alert,), state.firing, {k: list(v) for k, v in state.pending.items()})
        found += [(change.step, change.firing) for change in state.see(row)]
    return found


def oracle(alert: Alert, rows: list[Row]) -> list[tuple[int, bool]]:
    """The same by looking back over all rows for each row."""
    found: list[tuple[int, bool]] = []
    firing, start = False, 0
    rows = [row for row in rows if M in row.metrics and row.step >= alert.after_events]
    for i, row in enumerate(rows):
        value, clear = row.metrics[M], alert.clear_below
        assert alert.above is not None
        if firing:
            firing = not (value <= alert.above if clear is None else value < clear)
            start = i + 1
        elif value > alert.above:
            first = next(
                r
                for r in rows[start:]
                if r.step
                >= max(
                    [x.step + 1 for x in rows[start:i] if x.metrics[M] <= alert.above], default=0
                )
            )
            lasting = alert.duration
            firing = lasting is None or (
                row.step - first.step >= lasting.events
                if lasting.events is not None
                else row.time - first.time >= 1000 * (lasting.seconds or 0)
            )
        if (found[-1][1] if found else False) != firing:
            found.append((row.step, firing))
    return found


DURATIONS = (
    st.none()
    | st.fixed_dictionaries({"events": st.integers(1, 9)})
    | st.fixed_dictionaries({"seconds": st.integers(1, 9)})
)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.none() | st.integers(0, 9))),
    DURATIONS,
    st.none() | st.integers(0, 5),
    st.integers(0, 5),
)
def test_alert_fires_and_ends_as_the_oracle_says(
    steps: list[tuple[int, int, int | None]], lasting: Any, clear: int | None, after: int
) -> None:
    """Any rows, with gaps, at any time; the state is carried across a restart before each row."""
    alert = Alert.model_validate(
        {"metric": M, "above": 5, "for": lasting, "clear_below": clear, "after_events": after}
    )
    rows, step, now = [], 0, 0
    for more, seconds, value in steps:
        step, now = step + more, now + 1000 * seconds
        rows.append(Row(step, now, {} if value is None else {M: float(value)}, 0))
    assert changes(alert, rows) == oracle(alert, rows)


def test_alert_with_both_does_not_flap() -> None:
    """By hand: below 0.8 for 2,000 events, and it ends above 0.85 only."""
    alert = Alert.model_validate(
        {"metric": M, "below": 0.8, "for": {"events": 2000}, "clear_above": 0.85}
    )
    values = [0.7, 0.9, 0.79, 0.78, 0.79, 0.82, 0.79, 0.86, 0.7, 0.86]
    rows = [Row(1000 * (i + 1), 0, {M: value}, 0) for i, value in enumerate(values)]
    assert changes(alert, rows) == [(5000, True), (8000, False)]
    text = Alerts((alert,), {}, {alert.key: (1000, 0)}).see(rows[4])
    assert str(text[0]) == "alert: online/mae 0.79 is below 0.8 for 2,000 events at 5,000 events"


@pytest.mark.parametrize(
    ("alert", "text"),
    [
        ({"above": 1, "clear_above": 2}, "clear_above belongs to an alert with below"),
        ({"above": 1, "clear_below": 2}, "clear_below must not be greater than above"),
        ({"below": 1, "clear_above": 0}, "clear_above must not be less than below"),
        ({"below": 1, "for": {}}, "set exactly one of events and seconds"),
        ({"below": 1, "for": {"events": 1, "seconds": 1}}, "set exactly one of"),
        ({"below": 1, "for": {"hours": 1}}, "unknown key 'hours'"),
        ({"below": 1, "fro": {"events": 1}}, "unknown key 'fro': did you mean 'for'?"),
    ],
)
def test_alert_that_makes_no_sense_is_refused(alert: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text.replace("?", r"\?")):
        Alert.model_validate({"metric": M, **alert})


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("online/acuracy_window", "online/accuracy_window"),
        ("accuracy_window", "online/accuracy_window"),
        ("forgetting_low", "stability/forgetting_low"),
        ("stability/forgeting", "stability/forgetting"),
        ("system/lagg", "system/lag"),
        ("Online/Mae", "online/mae"),
    ],
)
def test_unknown_metric_names_the_nearest(name: str, near: str) -> None:
    assert f"did you mean {near!r}?" in (unknown_metric(name) or "")


def test_known_metrics_may_have_a_variable_part() -> None:
    for name in ("replay/own_value_p90", "retention/after_10k_low"):
        assert unknown_metric(name) is None
    assert unknown_metric("system/seconds_since_last_message/clicks/3") is None


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_logged_metric_is_known(task: str, everlearn: Any, write_job: Any) -> None:
    """With a buffer, probes and once-seen events: whatever is logged can have an alert."""
    probes = {"share": 0.1, "every_events": 500, "cut": {"events": 500}}
    evaluate = {"probes": probes, "once_seen": {"share": 0.05}}
    changes: dict[str, Any] = {"track": {"every_events": 500}, "evaluate": evaluate}
    if task == "regression":
        changes |= {"stream": {"label": "nswprice"}, "evaluate": {"probes": probes}}
    file = write_job(**changes)
    everlearn("run", file, "--run-dir", "run", "--max-events", 4000)
    logged = {
        name
        for file in ("metrics.jsonl", "stability.jsonl")
        for row in read_rows(Path("run") / file, 0, 10**9)[0]
        for name in row.metrics
    }
    assert len(logged) > 20
    assert [text for name in sorted(logged) if (text := unknown_metric(name))] == []
    assert len(names()) == len(set(names()))


def test_misspelt_metric_is_refused_before_the_start(everlearn: Any, write_job: Any) -> None:
    alerts = [{"metric": M, "above": 1}, {"metric": "online/kapa", "below": 0.2}]
    file = write_job(track={"alerts": alerts})
    line = everlearn("run", file, "--run-dir", "run", code=2).line
    assert "track.alerts.1.metric: 'online/kapa' is no metric: did you mean 'online/kappa'?" in line
    assert not Path("run").exists() or not list(Path("run").glob("*.jsonl"))
    alerts[1]["metric"] = "online/kappa"
    build(load(write_job(track={"alerts": alerts})))
