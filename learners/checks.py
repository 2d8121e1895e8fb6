"""What every learner must pass, by what its class declares; for the tree's learners and a user's.

    from learners.checks import check_learner
    check_learner(MyLearner)

or, where a test is wanted for each, and the learner is made in a way of its own:

    @pytest.mark.parametrize("check", checks_for(MyLearner), ids=str)
    def test_my_learner(check):
        check(lambda schema, seed: MyLearner(config, schema, seed))

A check that fails raises an ``AssertionError`` that says what was promised.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from learners.base import Learner, LearnerError, Prediction
from streams.core.batch import Array, Batch, ClassName, Features, Ints, Ragged
from streams.core.schema import Feature, FeatureKind, Schema, Task
from streams.core.state_dict import State, copied, digest, leaves
from streams.operators.label_join import Revealed
from streams.operators.labels_in_rows import DelayByEvents

Make = Callable[[Schema, int], Learner]
NAMES: tuple[ClassName, ...] = ("a", "b", "c")
TASKS: tuple[Task, Task] = ("classification", "regression")
D = 6


@dataclass(frozen=True)
class Check:
    """One promise of a learner on one task; call it with how a learner is made."""

    name: str
    task: Task
    cls: type[Learner]
    promise: Callable[[Case], None] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.cls.kind}-{self.task}-{self.name}"

    def __call__(self, make: Make | None = None) -> None:
        self.promise(Case(self.cls, self.task, make or maker(self.cls)))


def checks_for(cls: type[Learner]) -> Iterator[Check]:
    """The checks that a learner must pass by what its class declares."""
    for task in TASKS:
        if not _handles(cls, task):
            yield Check("refuses_the_task", task, cls, refuses_the_task)
            continue
        promises = [
            predictions_fit,
            takes_no_rows_and_one,
            predict_is_pure,
            takes_read_only_arrays,
            takes_any_layout,
            state_can_be_kept,
            goes_on_from_a_state,
            serves_as_it_predicts,
            same_seed_same_result,
            leaves_global_randomness_alone,
            sees_no_label_early,
            learns_nothing_unless_revealed,
            takes_corrections,
            takes_columns_or_says_no,
        ]
        if task == "classification":
            promises += [
                takes_classes_at_any_time if _many(cls) else refuses_a_third_class,
                takes_stated_classes,
            ]
        promises.append(same_at_any_batch_size if cls.per_event else frozen_within_a_batch)
        promises += [] if cls.needs_boundaries else [reads_no_segment]
        promises += [] if cls.opaque else [ignores_probes, memory_is_bounded]
        promises += [] if cls.baseline else [learns]
        for promise in promises:
            yield Check(promise.__name__, task, cls, promise)


def check_learner(cls: type[Learner], make: Make | None = None) -> None:
    """Runs all of ``checks_for``; the first that fails raises, with the name of the check."""
    for check in checks_for(cls):
        try:
            check(make)
        except Exception as error:
            error.add_note(f"in the check {check}")
            raise


def maker(cls: type[Learner]) -> Make:
    """Makes learners of a class with its example settings."""

    def make(schema: Schema, seed: int) -> Learner:
        return cls(cls.Config.model_validate(cls.example(schema.task)), schema, seed)

    return make


@dataclass(frozen=True)
class Case:
    """A class, a task, and small streams of it."""

    cls: type[Learner]
    task: Task
    make: Make

    def schema(self, classes: tuple[ClassName, ...] = ()) -> Schema:
        return Schema(tuple(Feature(f"x{i}", "numeric") for i in range(D)), self.task, classes)

    def new(self, seed: int = 1) -> Learner:
        return self.make(self.schema(), seed)

    def stream(self, n: int = 160, seed: int = 0, names: tuple[ClassName, ...] = ()) -> Batch:
        """n events: classes that lie apart, or a linear target with little noise."""
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, D))
        y: Array = 30 + 5 * x[:, 0] - 3 * x[:, 1] + 0.1 * rng.normal(size=n)
        if self.task == "classification":
            names = names or NAMES[: 3 if _many(self.cls) else 2]
            y = np.concatenate([np.arange(len(names)), rng.integers(0, len(names), n)])[:n]
            x[np.arange(n), y] += 5
        ids = rng.permutation(10 * n)[:n].astype(np.int64)
        offset = np.arange(n)
        batch = Batch(ids, offset * 60.0, x, np.zeros(n, np.int32), offset, y, classes=names)
        return replace(batch, key=offset % 4) if "sequences" in self.cls.handles else batch

    def seen(self, learner: Learner) -> str:
        """A fingerprint of what a learner knows: its state, or, if that is opaque, what it says."""
        if not self.cls.opaque:
            return digest(learner.state())
        said = learner.predict(replace(self.stream(50, seed=9), y=None))
        proba = {} if said.proba is None else {"proba": said.proba}
        return digest({"value": said.value, **proba})


class Run:
    """A learner led through a stream as the loop does it."""

    def __init__(self, learner: Learner, delay: int = 5) -> None:
        self.learner = learner
        segments = learner.needs_boundaries
        self.join = DelayByEvents(delay, delay + 10_000, segments, learner.per_event)
        self.said: list[Prediction] = []

    def step(self, batch: Batch, labels: bool = True) -> Prediction:
        pushed = self.join.push(batch)
        revealed = pushed.revealed
        if not labels:
            revealed = Revealed(revealed.batch[:0], revealed.before[:0])
        if not batch.ids.flags.writeable:  # the join copies; what it gives is no less read-only
            revealed = replace(revealed, batch=_frozen(revealed.batch))
        prediction = self.learner.step(self._question(batch), revealed)
        pushed.settle(prediction.value, prediction.proba)
        self.said.append(prediction)
        return prediction

    def all(self, batch: Batch, size: int = 16) -> Run:
        for part in batch.micro_batches(size):
            self.step(part)
        return self

    def end(self, size: int = 16) -> Run:
        for revealed, _ in self.join.finish(size):
            self.learner.step(revealed.batch[:0], revealed)
        return self

    def value(self) -> Array:
        return np.concatenate([p.value for p in self.said])

    def proba(self, width: int) -> Array:
        """(n, width): all probabilities so far, with 0 for classes not known yet."""
        parts = [np.zeros((len(p), 0)) if p.proba is None else p.proba for p in self.said]
        return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in parts])

    def _question(self, batch: Batch) -> Batch:
        segment = batch.segment if self.learner.needs_boundaries else None
        return replace(batch, y=None, segment=segment)


# The promises.


def predictions_fit(case: Case) -> None:
    """Ids, shapes, dtypes and probabilities are what ``Prediction`` says, from the first event."""
    stream, run = case.stream(), Run(case.new())
    version, classes = 0, run.learner.classes
    for batch in stream.micro_batches(16):
        said = run.step(batch)
        _fits(said, batch.ids, case.task)
        assert said.version >= version, "version goes down"
        assert said.classes[: len(classes)] == classes, "class codes change their meaning"
        version, classes = said.version, said.classes
    run.end()
    assert run.learner.version > version, "version does not count what was learned"
    last = run.learner.predict(replace(stream[:8], y=None))
    _fits(last, stream.ids[:8], case.task)
    if case.task == "classification":
        assert last.classes == stream.classes, f"{last.classes} are known of {stream.classes}"
    assert _says(last).all(), "it says nothing after it has learned"


def takes_no_rows_and_one(case: Case) -> None:
    """A batch may be empty or have one row, before anything is known and after."""
    stream, learner = case.stream(), case.new()
    for _ in range(2):
        for n in (0, 1):
            question = replace(stream[:n], y=None)
            _fits(learner.predict(question), stream.ids[:n], case.task)
            nothing = Revealed(stream[:0], stream.offset[:0])
            _fits(learner.step(question, nothing), stream.ids[:n], case.task)
        one = Revealed(stream[:1], np.zeros(1, np.int64))
        _fits(learner.step(replace(stream[:0], y=None), one), stream.ids[:0], case.task)
        Run(learner).all(stream)


def predict_is_pure(case: Case) -> None:
    """However often ``predict`` is called, nothing changes; and it says the same each time."""
    stream = case.stream()
    plain, asked = Run(case.new()), Run(case.new())
    other = replace(case.stream(7, seed=5), y=None)
    for batch in stream.micro_batches(16):
        plain.step(batch)
        with _globals_unchanged("predict"):
            before = case.seen(asked.learner)
            first, again = asked.learner.predict(other), asked.learner.predict(other)
            assert _same(first, again), "predict says something else when it is called again"
            assert case.seen(asked.learner) == before, "predict changes the state"
        asked.step(batch)
    assert _same_runs(plain, asked), "calls of predict change later predictions"
    assert case.seen(plain.learner) == case.seen(asked.learner), "calls of predict change learning"


def takes_read_only_arrays(case: Case) -> None:
    """Arrays that cannot be written to (as Ray hands them over) do, without a warning."""
    stream = case.stream()
    plain = Run(case.new()).all(stream)
    always = torch.is_warn_always_enabled()  # torch warns of it only once otherwise
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frozen = Run(case.new()).all(_frozen(stream))
            state = {path: _frozen_array(leaf) for path, leaf in leaves(frozen.learner.state())}
            loaded = Run(case.new())
            loaded.learner.load(_nested(state))
            loaded.all(_frozen(stream))
    finally:
        torch.set_warn_always(always)
    assert _same_runs(plain, frozen), "read-only arrays change the predictions"


def takes_any_layout(case: Case) -> None:
    """float32 and float64 numbers, and arrays that are not contiguous."""
    stream = case.stream()
    assert isinstance(stream.x, np.ndarray)
    plain = Run(case.new()).all(stream)
    strided = np.asfortranarray(np.repeat(stream.x, 2, axis=0))[::2]
    assert _same_runs(plain, Run(case.new()).all(replace(stream, x=strided))), "strides matter"
    narrow = Run(case.new())
    for batch in replace(stream, x=stream.x.astype(np.float32)).micro_batches(16):
        _fits(narrow.step(batch), batch.ids, case.task)


def state_can_be_kept(case: Case) -> None:
    """The state is arrays and JSON scalars under keys without a slash, and is kept as it was."""
    run = Run(case.new())
    for learner in (run.learner, run.all(case.stream()).learner):
        state = learner.state()
        for path, leaf in leaves(state):
            if isinstance(leaf, np.ndarray | np.generic):
                assert leaf.dtype.kind in "biuf", f"{path}: {leaf.dtype} cannot be kept"
            else:
                again = json.loads(json.dumps(leaf, allow_nan=False))
                assert again == leaf, f"{path}: {leaf!r} comes back from JSON as {again!r}"
        assert digest(_kept(state)) == digest(state), "the state does not come back as it was"
        assert state["state_version"] == learner.state_version
        assert state["version"] == learner.version


def goes_on_from_a_state(case: Case) -> None:
    """``load`` into a new learner at any moment goes on as if nothing had happened."""
    stream = case.stream(240)
    unbroken = Run(case.new()).all(stream)
    for stop in np.random.default_rng(3).integers(0, 15, 4).tolist():
        donor, heir = Run(case.new()).all(stream[: 16 * stop]), Run(case.new(seed=2))
        state = copied(donor.learner.state())
        heir.learner.load(heir.learner.migrate(_kept(state)))
        assert case.seen(heir.learner) == case.seen(donor.learner), "load misses something"
        heir.join, heir.said = donor.join, list(donor.said)
        heir.all(stream[16 * stop :])
        assert _same_runs(unbroken, heir), f"another way after a load at event {16 * stop}"
        assert case.seen(heir.learner) == case.seen(unbroken.learner)
    used = case.new(seed=2)
    Run(used).all(stream[:100])
    fresh = copied(case.new().state())
    used.load(_kept(fresh))
    again = Run(used).all(stream)
    assert _same_runs(unbroken, again), "load leaves something of what was learned before it"


def serves_as_it_predicts(case: Case) -> None:
    """A new learner given ``servable`` (or the whole state) predicts as the one that gave it, also
    with a head that has grown, and nothing of it moves on with the one that goes on learning."""
    stream = case.stream(240)
    question = replace(stream, y=None, segment=None)
    for stop in (0, 48, 160):
        run = Run(case.new()).all(stream[:stop]) if stop else Run(case.new())
        asked = run.learner.predict(question)
        for state in (run.learner.servable(), run.learner.state()):
            server = case.new(seed=2)
            server.load_servable(_kept(copied(state)))
            assert _same(server.predict(question), asked), "served is not predicted"
        kept = _kept(copied(run.learner.servable()))
        run.all(stream[stop : stop + 64])
        server = case.new(seed=3)
        server.load_servable(kept)
        assert _same(server.predict(question), asked), "what is served has moved on"


def same_seed_same_result(case: Case) -> None:
    """Two learners with one seed are equal all along."""
    stream = case.stream()
    one, two = Run(case.new(7)), Run(case.new(7))
    assert case.seen(one.learner) == case.seen(two.learner), "new learners differ"
    assert _same_runs(one.all(stream), two.all(stream)), "predictions differ"
    assert case.seen(one.learner) == case.seen(two.learner), "states differ"


def leaves_global_randomness_alone(case: Case) -> None:
    """It neither uses nor moves the generators that all share: torch's, numpy's, Python's."""
    stream = case.stream()
    with _globals_unchanged("the learner"):
        alone = [Run(case.new(seed)).all(stream) for seed in (1, 2)]
        together = [Run(case.new(seed)) for seed in (1, 2)]
    torch_state = torch.get_rng_state()
    try:
        for batch in stream.micro_batches(16):
            torch.randn(3)
            for run in together:
                run.step(batch)
    finally:
        torch.set_rng_state(torch_state)
    for one, other in zip(alone, together, strict=True):
        assert _same_runs(one, other), "two learners in one process disturb each other"
        assert case.seen(one.learner) == case.seen(other.learner)


def sees_no_label_early(case: Case) -> None:
    """No prediction hangs on a label that was not revealed before it."""
    stream, delay = case.stream(), 5
    assert stream.y is not None
    plain = Run(case.new(), delay).all(stream).value()
    for change in (30, 61, 95):
        y = stream.y.copy()
        y[change:] = np.roll(y[change:], 1) if case.task == "classification" else -500
        known = change + delay
        changed = Run(case.new(), delay).all(replace(stream, y=y)).value()
        early = slice(0, known if case.cls.per_event else known // 16 * 16 + 16)
        assert np.array_equal(plain[early], changed[early], equal_nan=True), (
            "a prediction hangs on a label that became known after it"
        )


def learns_nothing_unless_revealed(case: Case) -> None:
    """Without labels, a step does what ``observe`` does and no more."""
    stream = case.stream()
    stepped, observed = Run(case.new()).all(stream[:80]), Run(case.new()).all(stream[:80])
    version = stepped.learner.version
    for batch in stream[80:].micro_batches(16):
        stepped.step(batch, labels=False)
        observed.learner.observe(replace(batch, y=None))
    assert stepped.learner.version == version, "version counts a step without labels"
    assert case.seen(stepped.learner) == case.seen(observed.learner), (
        "something is learned where nothing was revealed"
    )


def takes_corrections(case: Case) -> None:
    """Labels that turn out to be others are taken up, or passed over; nothing is learned twice."""
    stream = case.stream()
    assert stream.y is not None
    run = Run(case.new()).all(stream[:80])
    version = run.learner.version
    ids = np.append(stream.ids[:20], -5)  # and one that was never seen
    y = np.append(stream.y[:20][::-1], stream.y[0])
    if case.task == "classification" and _many(case.cls):
        y[0] = 3  # a class that no event had
        stream = replace(stream, classes=(*stream.classes, "d"))
    run.learner.correct(ids[1:], y[1:])
    nothing = Revealed(stream[:0], stream.offset[:0], (ids, y))
    run.learner.step(replace(stream[:0], y=None), nothing)
    assert run.learner.version == version, "a correction counts as learning"
    for batch in stream[80:].micro_batches(16):
        _fits(run.step(batch), batch.ids, case.task)


def takes_columns_or_says_no(case: Case) -> None:
    """Streams of text, categories, vectors and images are learned, or refused in one clear line."""
    n = 48
    rng = np.random.default_rng(0)
    words = ["", "red", "green leaf", "blue", "grün"]
    text = Ragged.of_text(str(w) for w in rng.choice(words, n))
    number = rng.normal(size=n)
    kinds: list[tuple[list[tuple[str, FeatureKind, tuple[int, ...]]], Features]] = [
        (
            [("n", "numeric", ()), ("c", "categorical", ()), ("t", "text", ())],
            {"n": number, "c": text, "t": text},
        ),
        ([("t", "text", ())], {"t": text}),
        ([("n", "numeric", ())], number[:, None]),
        ([("v", "vector", (4,))], rng.normal(size=(n, 4)).astype(np.float32)),
        ([("i", "image", (1, 8, 8))], rng.integers(0, 256, (n, 1, 8, 8)).astype(np.uint8)),
    ]
    for columns, x in kinds:
        schema = Schema(tuple(Feature(*column) for column in columns), case.task)
        try:
            run = Run(case.make(schema, 1))
        except (LearnerError, ValueError) as error:
            _one_line(error)
            continue
        for batch in replace(case.stream(n), x=x).micro_batches(16):
            _fits(run.step(batch), batch.ids, case.task)


def takes_classes_at_any_time(case: Case) -> None:
    """A class that comes late widens what is predicted, and moves none of the others."""
    names: tuple[ClassName, ...] = (*NAMES, "d")
    stream = case.stream(320, names=names)
    assert stream.y is not None
    for codes in (np.arange(320) < 100, np.arange(320) < 200):  # only two until 100, three to 200
        late = 2 if codes.sum() == 100 else 3
        stream = replace(stream, y=np.where(codes & (stream.y >= late), 0, stream.y))
    run = Run(case.new())
    for batch in stream.micro_batches(16):
        _fits(run.step(batch), batch.ids, case.task)
    widths = [len(said.classes) for said in run.said]
    assert widths == sorted(widths), "classes are forgotten"
    assert run.said[5].classes == names[:2], f"{run.said[5].classes} after 80 events of a and b"
    assert run.said[-1].classes == names
    state = copied(run.learner.state())
    heir = case.new(seed=2)
    heir.load(_kept(state))
    question = replace(stream[:9], y=None)
    assert _same(heir.predict(question), run.learner.predict(question)), "load loses a class"


def refuses_a_third_class(case: Case) -> None:
    """A learner of two classes says so when a third comes, and when three are stated."""
    stream = replace(case.stream(names=NAMES), classes=NAMES)
    for schema in (case.schema(), case.schema(NAMES)):
        try:
            Run(case.make(schema, 1)).all(stream)
        except LearnerError as error:
            _one_line(error)
        else:
            raise AssertionError("it takes a third class, and does not declare classification")


def takes_stated_classes(case: Case) -> None:
    """Classes that the job states are known from the start, by code and name."""
    stream = case.stream()
    run = Run(case.make(case.schema(stream.classes), 1))
    assert run.learner.classes == stream.classes
    for batch in stream.micro_batches(16):
        said = run.step(batch)
        _fits(said, batch.ids, case.task)
        assert said.classes == stream.classes


def same_at_any_batch_size(case: Case) -> None:
    """An exact learner says the same however the stream is cut, at any delay of the labels."""
    stream = case.stream(100)
    for delay in (0, 1, 9, 40):
        runs = [Run(case.new(), delay).all(stream, size).end(size) for size in (1, 7, 32)]
        width = max(max(len(r.learner.classes), 2) for r in runs)
        for run in runs[1:]:
            assert np.array_equal(run.value(), runs[0].value(), equal_nan=True), "values differ"
            assert np.array_equal(run.proba(width), runs[0].proba(width)), "probabilities differ"
            if not case.cls.opaque:
                version = {"version": 0}
                states = [digest({**r.learner.state(), **version}) for r in (run, runs[0])]
                assert states[0] == states[1], "states differ"


def frozen_within_a_batch(case: Case) -> None:
    """A learner that is not exact predicts a whole batch before it learns anything of it."""
    run = Run(case.new())
    for batch in case.stream().micro_batches(16):
        question = replace(batch, y=None)
        before = run.learner.predict(question)
        rows = [run.learner.predict(question[i : i + 1]).value for i in range(len(batch))]
        said = run.step(batch)
        assert _same(before, said), "step says something else than predict just before it"
        if case.task == "regression":
            alone = np.concatenate(rows)
            assert np.allclose(alone, said.value, 1e-4, 1e-4, equal_nan=True), "rows mix"


def reads_no_segment(case: Case) -> None:
    """Which task or concept an event belongs to makes no difference."""
    stream = case.stream()
    runs = []
    for segment in (None, np.arange(len(stream)) // 40, -np.arange(len(stream))):
        learner = case.new()
        run = Run(learner)
        run.join.segments = True
        runs.append(run)
        for batch in replace(stream, segment=segment).micro_batches(16):
            pushed = run.join.push(batch)
            revealed = pushed.revealed
            said = learner.step(replace(batch, y=None), revealed)
            pushed.settle(said.value, said.proba)
            run.said.append(said)
    for run in runs[1:]:
        assert _same_runs(runs[0], run), "predictions hang on the segment"
        assert case.seen(runs[0].learner) == case.seen(run.learner), "learning hangs on the segment"


def ignores_probes(case: Case) -> None:
    """What a probe looks like leaves no trace: it is predicted, and not observed or learned."""
    stream = case.stream()
    assert isinstance(stream.x, np.ndarray)
    probe = np.arange(len(stream)) % 5 == 3
    wild = np.where(probe[:, None], 1e6 * (1 + stream.x), stream.x)
    runs = [Run(case.new()).all(replace(stream, x=x, probe=probe)).end() for x in (stream.x, wild)]
    assert digest(runs[0].learner.state()) == digest(runs[1].learner.state()), (
        "the state tells what the probes were"
    )


def memory_is_bounded(case: Case) -> None:
    """``memory_bytes`` is positive, and does not go up with every event."""
    run = Run(case.new())
    sizes = [run.learner.memory_bytes()]
    stream = case.stream(2400)
    for part in (stream[:600], stream[600:]):
        run.all(part, 32)
        sizes.append(run.learner.memory_bytes())
    assert all(isinstance(size, int) and size > 0 for size in sizes), f"{sizes} bytes"
    stored = 1800 * 8 * (D + 2)
    assert sizes[2] - sizes[1] < stored / 4, f"1,800 events more made it {sizes[1:]} bytes"


def learns(case: Case) -> None:
    """On a stream that is easy to learn it is clearly better than class frequencies or the mean."""
    stream = case.stream(960)
    value = Run(case.new()).all(stream).value()[-320:]
    assert stream.y is not None
    y = stream.y[-320:]
    if case.task == "classification":
        accuracy = float((value == y).mean())
        assert accuracy > 0.8, f"accuracy {accuracy:.2f} on classes that lie well apart"
    else:
        ratio = float(np.abs(value - y).mean() / np.abs(y - y.mean()).mean())
        assert ratio < 0.5, f"its error is {ratio:.2f} times that of the mean, on a linear target"


def refuses_the_task(case: Case) -> None:
    """A task that it does not declare is refused in one clear line."""
    try:
        case.new()
    except LearnerError as error:
        _one_line(error)
    else:
        raise AssertionError(f"it takes {case.task}, and does not declare it")


# What they are made of.


def _handles(cls: type[Learner], task: Task) -> bool:
    return task in cls.handles or (task == "classification" and "binary" in cls.handles)


def _many(cls: type[Learner]) -> bool:
    return "classification" in cls.handles


def _says(said: Prediction) -> Array:
    """(n,) bool: the rows in which something is predicted."""
    return ~np.isnan(said.value) if said.kind == "regression" else said.value >= 0


def _fits(said: Prediction, ids: Ints, task: Task) -> None:
    n = len(ids)
    assert np.array_equal(said.ids, ids), "ids are not those of the events"
    assert said.ids.dtype == np.int64, f"ids are {said.ids.dtype}"
    assert said.kind == task, f"kind is {said.kind}"
    assert said.value.shape == (n,), f"value has shape {said.value.shape}, not {(n,)}"
    wanted = np.float64 if task == "regression" else np.int64
    assert said.value.dtype == wanted, f"value is {said.value.dtype}, not {wanted.__name__}"
    if task == "regression":
        assert not np.isinf(said.value).any(), "a predicted target is infinite"
        assert said.proba is None, "a target has no probabilities"
        return
    width = len(said.classes)
    assert len(set(said.classes)) == width, f"a class has two codes: {said.classes}"
    proba = said.proba
    assert (said.value >= -1).all(), "a class code is below -1"
    assert (said.value < max(width, 2)).all(), "a predicted class has no name"
    if proba is None:
        return
    assert proba.ndim == 2, f"proba has shape {proba.shape}"
    assert len(proba) == n, f"proba has {len(proba)} rows for {n} events"
    assert width <= proba.shape[1] <= max(width, 2), f"proba {proba.shape} for {width} classes"
    assert proba.dtype.kind == "f", f"proba is {proba.dtype}"
    assert np.isfinite(proba).all(), "a probability is not finite"
    assert (proba >= 0).all(), "a probability is negative"
    total = proba.sum(1)
    assert np.allclose(total, said.value >= 0, atol=1e-5), (
        "probabilities sum to 1, or are all 0 where nothing can be said"
    )


def _one_line(error: Exception) -> None:
    assert str(error), "the error says nothing"
    assert "\n" not in str(error), f"the error has more than one line: {error}"


def _same(a: Prediction, b: Prediction) -> bool:
    probas = [np.zeros(0) if p.proba is None else p.proba for p in (a, b)]
    return (
        np.array_equal(a.value, b.value, equal_nan=True)
        and np.array_equal(probas[0], probas[1], equal_nan=True)
        and np.array_equal(a.ids, b.ids)
        and (a.classes, a.version, a.kind) == (b.classes, b.version, b.kind)
    )


def _same_runs(a: Run, b: Run) -> bool:
    return len(a.said) == len(b.said) and all(map(_same, a.said, b.said))


def _kept(state: State) -> State:
    """The state as a checkpoint gives it back: by way of safetensors and JSON."""
    arrays, values = {}, {}
    for path, leaf in leaves(state):
        if isinstance(leaf, np.ndarray | np.generic):
            arrays[path] = np.ascontiguousarray(leaf).reshape(leaf.shape)
        else:
            values[path] = leaf
    return _nested({**load(save(arrays)), **json.loads(json.dumps(values))})


def _nested(flat: dict[str, Any]) -> State:
    state: State = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        inner = state
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return state


def _frozen(batch: Batch) -> Batch:
    names = ("ids", "time", "x", "partition", "offset", "y")
    return replace(batch, **{name: _frozen_array(getattr(batch, name)) for name in names})


def _frozen_array(leaf: Any) -> Any:
    if not isinstance(leaf, np.ndarray):
        return leaf
    leaf = leaf.copy()
    leaf.flags.writeable = False
    return leaf


@contextmanager
def _globals_unchanged(who: str) -> Iterator[None]:
    def states() -> list[str]:
        legacy = np.random.get_state()  # noqa: NPY002 (it is what must stay as it is)
        shared = torch.get_rng_state().tolist(), legacy, random.getstate()
        return [repr(state) for state in shared]

    before = states()
    yield
    for name, old, new in zip(("torch", "numpy", "Python"), before, states(), strict=True):
        assert old == new, f"{who} draws from the generator of {name} that all share"
