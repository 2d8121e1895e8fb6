"""Probes by segment: which are kept, where segments end, and that none is ever learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.sections import ProbesConfig
from pipeline.evaluation.probes import Probes, Segment
from pipeline.storage.checkpoints import read
from streams.core.batch import Array, Batch
from streams.core.hashing import mix
from streams.core.state_dict import digest
from streams.operators.label_join import NONE, LabelledProbes, Outcome


def events(start: int, stop: int, time: Array | None = None) -> Batch:
    """Events whose id is 10 times their place, of two classes."""
    n = np.arange(start, stop)
    when = n.astype(float) if time is None else time
    x = n[:, None].astype(float)
    return Batch(n * 10, when, x, np.zeros(len(n), np.int32), n, n % 2, classes=("a", "b"))


def fed(
    probes: Probes,
    n: int,
    size: int = 32,
    every: int = 5,
    folding: bool = False,
    time: Array | None = None,
) -> Probes:
    """n events, every so-manieth a probe whose label is known at once."""
    for start in range(0, n, size):
        stop = min(n, start + size)
        batch = events(start, stop, None if time is None else time[start:stop])
        probes.enter(batch)
        mine = batch.offset % every == 0
        if mine.any():
            probes.add(LabelledProbes(batch, np.flatnonzero(mine), batch.offset[mine]))
        if folding:
            probes.fold()
    return probes


def spans(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    return [(segment.begin, segment.end) for segment in segments]


def config(**changes: Any) -> ProbesConfig:
    return ProbesConfig.model_validate({"share": 0.2, "segments": 4, **changes})


def test_segments_by_count_end_at_their_length() -> None:
    probes = fed(Probes(config(cut={"events": 100}), 1), 330, size=32)
    assert spans(probes.segments()) == [(0, 100), (100, 200), (200, 300), (300, 330)]
    assert [segment.ended for segment in probes.segments()] == [True, True, True, False]
    for segment in probes.segments():
        expected = [i for i in range(segment.begin, segment.end) if i % 5 == 0]
        assert segment.index.tolist() == expected
        assert segment.rows is not None
        assert segment.rows.ids.tolist() == [i * 10 for i in expected]
    assert probes.cuts == 3


def test_segments_at_the_limit_merge_and_double() -> None:
    probes = Probes(config(cut={"events": 100}), 1)
    fed(probes, 499)
    assert len(probes.segments()) == 5
    probes = fed(Probes(config(cut={"events": 100}), 1), 520)
    assert spans(probes.segments()) == [(0, 200), (200, 400), (400, 520)]
    probes = fed(Probes(config(cut={"events": 100}), 1), 3300)
    assert spans(probes.segments()) == [
        (0, 800),
        (800, 1600),
        (1600, 2400),
        (2400, 3200),
        (3200, 3300),
    ]


def test_capacity_bounds_the_probes_of_any_stream() -> None:
    probes = Probes(config(capacity=100, cut={"events": 50}), 1)
    for n in (1000, 20_000):
        fed(probes, n, every=1)
        kept = [len(segment) for segment in probes.segments()]
        assert sum(kept) <= 100
        assert max(kept) == 20  # of each of five


def test_sample_of_a_segment_is_uniform() -> None:
    counts = np.zeros(1000)
    for seed in range(200):
        probes = fed(Probes(config(capacity=500, cut={"events": 1000}), seed), 1000, 100, every=1)
        kept = probes.segments()[0].index
        assert len(kept) == 100
        counts[kept] += 1
    # 20 expected of each; sums over tenths of the segment have a deviation of about 4%.
    tenths = counts.reshape(10, 100).sum(1)
    assert np.abs(tenths / 2000 - 1).max() < 0.15
    assert counts.max() < 45


def test_merged_segments_sample_like_one_segment() -> None:
    """What is kept of a stretch does not hang on whether it was cut before."""
    cut = fed(Probes(config(capacity=500, cut={"events": 50}), 9), 501, every=1)
    whole = fed(Probes(config(capacity=500, cut={"events": 200}), 9), 501, every=1)
    assert spans(cut.segments())[:2] == [(0, 200), (200, 400)] == spans(whole.segments())[:2]
    first, second = cut.segments()[0], whole.segments()[0]
    assert len(first) == 100
    np.testing.assert_array_equal(first.index, second.index)


@given(size=st.integers(1, 700), folding=st.booleans(), stop=st.integers(0, 40))
def test_state_is_independent_of_batches_and_folds(size: int, folding: bool, stop: int) -> None:
    made = config(capacity=200, cut={"events": 64})
    whole = fed(Probes(made, 3), 1500, every=3)
    other = fed(Probes(made, 3), 1500, size, every=3, folding=folding)
    assert digest(other.state()) == digest(whole.state())


def test_probes_loaded_from_state_continue_the_same() -> None:
    for cut in ({"events": 64}, {"seconds": 90.0}, {"drift": 0.01}):
        made = config(capacity=200, cut=cut)
        whole = through(Probes(made, 3), 0, 3000)
        half = through(Probes(made, 3), 0, 1600)
        rest = Probes(made, 3)
        rest.load(half.state(), ("a", "b"))
        through(rest, 1600, 3000)
        assert digest(rest.state()) == digest(whole.state())
        assert whole.cuts


def through(probes: Probes, start: int, stop: int) -> Probes:
    """Events that are all predicted rightly up to the 1000th, and then wrongly in half of cases."""
    wrong = np.random.default_rng(0).random(stop) < np.where(np.arange(stop) < 1000, 0.05, 0.5)
    for at in range(start, stop, 32):
        batch = events(at, min(at + 32, stop))
        probes.enter(batch)
        mine = np.flatnonzero(batch.offset % 4 == 0)
        probes.add(LabelledProbes(batch, mine, batch.offset[mine]))
        assert batch.y is not None
        value = np.where(wrong[batch.offset], 1 - batch.y, batch.y)
        none = (NONE, NONE, NONE, NONE)
        out = Outcome(batch.ids, batch.y, value, None, value, NONE, *none)
        probes.outcomes(out, [len(batch)], [probes.seen])
    return probes


def test_drift_ends_a_segment_where_the_error_changes() -> None:
    probes = through(Probes(config(cut={"drift": 0.002}), 3), 0, 3000)
    assert len(probes.segments()) == 2
    assert 1000 < probes.segments()[1].begin < 1600


def test_drift_is_independent_of_the_outcome_batches() -> None:
    one = through(Probes(config(cut={"drift": 0.002}), 3), 0, 3000)
    other = Probes(config(cut={"drift": 0.002}), 3)
    waiting: list[tuple[Outcome, int]] = []
    rng = np.random.default_rng(1)
    original = Probes.outcomes

    def some(outcome: Outcome, counts: Sequence[int], seen: Sequence[int]) -> None:
        waiting.append((outcome, seen[0]))
        if rng.random() < 0.2:
            y, value, ids = (
                np.concatenate([getattr(o, name) for o, _ in waiting])
                for name in ("y", "value", "ids")
            )
            none = (NONE, NONE, NONE, NONE)
            joined = Outcome(ids, y, value, None, value, NONE, *none)
            original(other, joined, [len(o.y) for o, _ in waiting], [s for _, s in waiting])
            waiting.clear()

    other.outcomes = some  # type: ignore[method-assign]
    through(other, 0, 3000)
    assert spans(other.segments()) == spans(one.segments())


def test_segments_by_time_skip_a_gap() -> None:
    time = np.concatenate([np.arange(100.0), np.arange(1000.0, 1100.0)])
    probes = fed(Probes(config(cut={"seconds": 50.0}), 1), 200, size=30, time=time)
    assert spans(probes.segments()) == [(0, 50), (50, 100), (100, 150), (150, 200)]


def test_segments_by_time_double_at_the_limit() -> None:
    probes = fed(Probes(config(cut={"seconds": 50.0}), 1), 1000, size=30)
    lengths = [end - begin for begin, end in spans(probes.segments())][:-1]
    assert set(lengths) == {200}
    assert len(lengths) <= 4


def test_correct_replaces_a_label() -> None:
    probes = fed(Probes(config(cut={"events": 100}), 1), 250)
    before = probes.segments()
    probes.correct(np.array([1500, 0, 77, 0]), np.array([1, 0, 1, 1]))
    first, second, _ = probes.segments()
    for segment, index, wanted in ((first, 0, 1), (second, 150, 1)):
        assert segment.rows is not None
        assert segment.rows.y is not None
        assert segment.rows.y[segment.index == index].tolist() == [wanted]
    assert before[0].rows is not None
    assert before[0].rows.y is not None
    assert before[0].rows.y[0] == 0  # what was handed out stays as it was


LEARNER = '''
import numpy as np
from learners.baselines.prior import Prior


class Diary(Prior):
    """Records the ids of all events that it learns or observes."""

    kind = "diary"

    def __init__(self, config, schema, seed):
        super().__init__(config, schema, seed)
        self.learned = self.observed = np.empty(0, np.int64)

    def observe(self, batch):
        self.observed = np.append(self.observed, batch.ids)

    def learn(self, batch):
        super().learn(batch)
        self.learned = np.append(self.learned, batch.ids)

    def state(self):
        return {**super().state(), "learned": self.learned, "observed": self.observed}

    def load(self, state):
        super().load(state)
        self.learned, self.observed = np.array(state["learned"]), np.array(state["observed"])
'''


@pytest.fixture
def apart(tmp_path: Path) -> dict[str, Any]:
    """A stream of 3,000 events with ids of their own, whose labels come late, in any order, some
    twice and some not at all, in a file of their own."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(100_000)[:3000]
    rows = [f"{i},{t},{rng.random():.4f}" for t, i in enumerate(ids)]
    (tmp_path / "events.csv").write_text("\n".join(["id,time,x", *rows]))
    late = [(t + rng.exponential(200), i, int(rng.integers(2))) for t, i in enumerate(ids)]
    late = [label for label in late if rng.random() > 0.05]
    late += [(t + 50, i, 1 - y) for t, i, y in late[::20]]
    lines = [f"{i},{t:.3f},{y}" for t, i, y in sorted(late)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,time,y", *lines]))
    apart = {"path": "labels.csv", "id": "id", "label": "y", "time": "time"}
    return {
        "kind": "recorded",
        "path": "events.csv",
        "id": "id",
        "time": "time",
        "labels": apart,
        "label": None,
        "label_delay": None,
        "standardise": None,
        "label_timeout_events": 1000,
    }


def test_probe_is_never_learned_when_late_or_resumed(
    apart: dict[str, Any],
    write_job: Callable[..., Path],
    everlearn: Callable[..., Any],
    tmp_path: Path,
) -> None:
    (tmp_path / "diary.py").write_text(LEARNER)
    probes = {"share": 0.1, "cut": {"events": 300}, "every_events": 100}
    job = write_job(
        stream=apart,
        learner={"kind": "diary:Diary"},
        evaluate={"probes": probes},
        checkpoint={"every_events": 500},
    )
    for stop in (700, 1500, 2900, 3000):
        more = ["--resume"] if stop > 700 else []
        everlearn("run", job, "--run-dir", "run", "--max-events", stop, *more)
    everlearn("run", job, "--run-dir", "run", "--resume")
    summary = json.loads(Path("run/summary.json").read_text())
    state = read(sorted(Path("run/checkpoints").iterdir())[-1]).state
    learned, observed = (state["learner"][name].tolist() for name in ("learned", "observed"))
    ids = np.loadtxt("events.csv", delimiter=",", skiprows=1)[:, 0].astype(np.int64)
    chosen = set(ids[mix(ids, 7) < 0.1 * 2**64].tolist())
    assert 200 < len(chosen) < 400
    assert not chosen & set(learned)
    assert not chosen & set(observed)
    assert len(set(learned)) == len(learned) == summary["fates"]["learned"] > 2000
    kept = state["probes"]["kept"]["rows"]["ids"]
    assert set(kept.tolist()) <= chosen
    assert summary["fates"]["probe"] == len(kept) > 200

    whole = tmp_path / "whole"
    everlearn("run", job, "--run-dir", whole)
    other = json.loads((whole / "summary.json").read_text())
    assert other["state_digest"] == summary["state_digest"]


def test_load_refuses_invalid_probe_settings(
    write_job: Callable[..., Path], everlearn: Callable[..., Any]
) -> None:
    job = write_job()
    for setting, message in (
        ("segments=3", "evaluate.probes.segments"),
        ("cut={events: 5, seconds: 2}", "set exactly one of events, seconds and drift"),
        ("cut={drift: 2}", "evaluate.probes.cut.drift"),
        ("capacity=5", "evaluate.probes.capacity"),
        ("segments=100", "capacity must be above segments"),
    ):
        more = ("--set", "evaluate.probes.capacity=100", "--set", f"evaluate.probes.{setting}")
        refused = everlearn("run", job, *more, code=2)
        assert message in refused.line


FLIPS = """
import numpy as np
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.stream import Stream


class Flips(Stream):
    '''A class that follows from a number, and every 1,500 events the other way round.'''

    kind = "flips"
    schema = Schema((Feature("x", "numeric"),), "classification", ("a", "b"))

    def __init__(self, config, folder):
        pass

    def read(self, cursor, block_size):
        for start in range(cursor.get("0", 0), 9000, block_size):
            at = np.arange(start, min(start + block_size, 9000))
            x = np.sin(at * 12.9898)[:, None] * 2
            y = ((x[:, 0] > 0) ^ (at // 1500 % 2 == 1)).astype(np.int64)
            yield Batch(at, at * 1.0, x, at.astype(np.int32) * 0, at, y, classes=("a", "b"))
"""


@pytest.mark.parametrize("cut", ["{drift: 0.002}", "{events: 700}", "{seconds: 700}"])
def test_evaluations_at_any_time_leave_the_state_unchanged(
    cut: str, write_job: Callable[..., Path], everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "flips.py").write_text(FLIPS)
    job = write_job(stream={"kind": "flips:Flips"}, evaluate={"probes": {"share": 0.2}}, track=None)
    digests = set()
    for every, checkpoint in ((100_000, 100_000), (200, 100_000), (100_000, 500), (96, 640)):
        out = f"run-{every}-{checkpoint}"
        settings = (
            f"evaluate.probes.every_events={every}",
            f"checkpoint.every_events={checkpoint}",
            f"evaluate.probes.cut={cut}",
            "evaluate.probes.segments=4",
            "learner.optimizer.lr=0.01",
        )
        everlearn("run", job, "--run-dir", out, *(w for s in settings for w in ("--set", s)))
        digests.add(json.loads(Path(out, "summary.json").read_text())["state_digest"])
        state = read(sorted(Path(out, "checkpoints").iterdir())[-1]).state["probes"]
        assert state["cuts"] >= 4
        index = state["kept"]["index"]
        assert (np.diff(index) > 0).all()
        home = np.searchsorted(state["starts"], index, side="right") - 1
        assert np.bincount(home).tolist() == state["counts"][: home[-1] + 1].tolist()
    assert len(digests) == 1


@pytest.mark.parametrize(
    "time",
    [
        1.7e18 + np.arange(300) * 1e9,  # in nanoseconds
        np.where(np.arange(300) < 150, np.arange(300.0), 1e300),
        np.where(np.arange(300) < 150, np.arange(300.0), 1e19),
        -1e18 + np.arange(300.0),
        1.7e9 + np.arange(300.0),
    ],
)
@pytest.mark.parametrize("seconds", [1e-9, 60.0])
def test_segments_by_time_end_for_any_time(time: Array, seconds: float) -> None:
    probes = fed(Probes(config(cut={"seconds": seconds}), 1), 300, size=30, time=time)
    segments = probes.segments()
    assert segments[0].begin == 0
    assert segments[-1].end == 300
    assert len(segments) <= 5


def test_corrected_label_of_a_probe_is_not_learned(
    write_job: Callable[..., Path], everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    chosen = mix(np.arange(400), 7) < int(0.1 * 2**64)
    probe = int(np.flatnonzero(chosen)[0])
    rows = [f"{i},{i},{i % 7}" for i in range(400)]
    (tmp_path / "events.csv").write_text("\n".join(["id,time,x", *rows]))
    states = {}
    for name, corrected in (("without", []), ("with", [f"{probe},300,c"])):
        lines = [f"{i},{i},{'ab'[i % 2]}" for i in range(300)] + corrected
        lines += [f"{i},{i},{'ab'[i % 2]}" for i in range(301, 400)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,time,y", *lines]))
        stream = {
            "kind": "recorded",
            "path": "events.csv",
            "id": "id",
            "time": "time",
            "labels": {"path": f"{name}.csv", "id": "id", "label": "y", "time": "time"},
            "label": None,
            "label_delay": None,
            "standardise": None,
        }
        job = write_job(stream=stream, evaluate={"probes": {"share": 0.1}})
        everlearn("run", job, "--run-dir", name)
        states[name] = read(sorted(Path(name, "checkpoints").iterdir())[-1]).state
    learner = states["with"]["learner"]
    assert sorted(learner["classes"]) == ["a", "b"]
    assert digest(learner) == digest(states["without"]["learner"])
    kept = states["with"]["probes"]["kept"]["rows"]
    assert kept["y"][kept["ids"] == probe].tolist() == [2]  # the probe's label is what it is


def test_resume_without_probes_ignores_their_settings(
    write_job: Callable[..., Path], everlearn: Callable[..., Any]
) -> None:
    job = write_job()
    everlearn("run", job, "--run-dir", "run", "--max-events", 1000)
    more = ("--resume", "--max-events", 2000, "--set", "evaluate.probes.capacity=200")
    everlearn("run", job, "--run-dir", "run", *more)
    more = ("--resume", "--max-events", 3000, "--set", "evaluate.probes.share=0.1")
    assert "evaluate.probes.share" in everlearn("run", job, "--run-dir", "run", *more, code=2).err
