"""An adapter for each segment, and the choice of one for each input.

The defects of the authors' code are shown absent: adapters that change in evaluation, and a merge
for each block of each forward pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from learners.checks import Check, checks_for
from learners.checks.case import Case, LearnerRun, with_example_settings
from learners.networks import modules
from learners.pretrained.adapters.mos import Mos
from learners.pretrained.adapters.mos_settings import MosConfig
from learners.pretrained.merging import average, weighted
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.core.state_dict import copied, digest, leaves

TEXT = Schema((Feature("text", "text"),), "classification")
CASE = Case(Mos, "classification", with_example_settings(Mos))
EXAMPLE = Mos.example("classification")
SGD = {"kind": "sgd", "lr": 0.1}


def mos(seed: int = 1, **settings: Any) -> Mos:
    return Mos(MosConfig.model_validate(EXAMPLE | settings), TEXT, seed)


def taught(n: int, learner: Mos, size: int = 16) -> Mos:
    for batch in CASE.stream(n).micro_batches(size):
        learner._learn(batch)
    return learner


def adapters_of(learner: Mos) -> str:
    state = learner.stack.state() | modules.module_state(learner.parts)
    return digest(
        state | {"frozen": [digest({"w": w.numpy()}) for w in learner.backbone.weights()]}
    )


def unlabelled(n: int, seed: int = 5) -> Batch:
    return replace(CASE.stream(n, seed), y=None)


def test_predictions_change_no_adapter() -> None:
    learner = taught(192, mos(merge=0.1, most=4))
    before, state = adapters_of(learner), digest(learner.state())
    first = learner.predict(unlabelled(64))
    for size in (1, 7, 64):
        for batch in unlabelled(64).micro_batches(size):
            learner.predict(batch)
    assert adapters_of(learner) == before
    assert digest(learner.state()) == state
    np.testing.assert_array_equal(learner.predict(unlabelled(64)).proba, first.proba)


def test_a_new_adapter_continues_from_the_last_one() -> None:
    """The earlier ones stay, bit for bit, and weights of the backbone too."""
    learner = mos(most=4)
    frozen = [weight.clone() for weight in learner.backbone.weights()]
    taught(64, learner)
    one = {name: array.copy() for name, array in learner.stack.of(0).items()}
    assert digest(one) == digest(modules.module_state(learner.parts))
    learner._learn(CASE.stream(8))
    assert learner.stack.count == 2
    assert digest(learner.stack.of(0)) == digest(one)
    assert digest(learner.stack.of(1)) != digest(one)
    assert all(map(torch.equal, frozen, learner.backbone.weights()))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_one_merge_for_each_step(alpha: float) -> None:
    """A step without a gradient retains 1 - alpha of the distance to the mean of the earlier ones,
    and so does a step of a learner with several upper blocks: it is not merged for each of them."""
    learner = taught(128, mos(merge=alpha, first_block=0, most=5, optimizer=SGD))
    earlier = average([learner.stack.of(i) for i in range(2)])  # the next event starts the third
    twin = mos(merge=0.0, first_block=0, most=5, optimizer=SGD)
    twin.load(copied(learner.state()))
    batch = CASE.stream(16, seed=3)
    learner._learn(batch)
    twin._learn(batch)
    expected = weighted([modules.module_state(twin.parts), earlier], [1 - alpha, alpha])
    for name, array in modules.module_state(learner.parts).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6)
        if not alpha:
            np.testing.assert_array_equal(array, expected[name])


def test_first_adapter_is_never_merged() -> None:
    merged, plain = taught(64, mos(merge=0.5)), taught(64, mos(merge=0.0))
    assert digest(modules.module_state(merged.parts)) == digest(modules.module_state(plain.parts))


def test_rows_pass_their_own_adapters_in_one_batch() -> None:
    fast = {"kind": "adam", "lr": 0.03}  # so that adapters differ
    learner = taught(160, mos(most=4, first_block=0, optimizer=fast))
    hidden, _ = learner._trunk(torch.from_numpy(learner.rows(unlabelled(24))))
    chosen = torch.arange(24) % learner.stack.count
    with torch.inference_mode():
        together = learner.stack.features(hidden, chosen)
        for i in range(learner.stack.count):
            alone = learner.stack.features(hidden, i)
            torch.testing.assert_close(together[chosen == i], alone[chosen == i], atol=1e-5, rtol=0)
        last = learner.parts.features(hidden, None)  # type: ignore[operator]
        torch.testing.assert_close(alone, last, atol=1e-5, rtol=0)
        assert (learner.stack.features(hidden, 0) - last).abs().max() > 1e-3


def test_refinement_ends_after_four_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that always names another segment is asked 1 + 4 times, then the last counts."""
    learner = taught(192, mos(most=4, ensemble=False))
    segments, count = learner.classes_of_segments.segments, learner.stack.count
    asked: list[int] = []
    started: list[int] = []

    def near(batch: Batch) -> Any:
        found = retrieved(batch)
        started.append(int(segments[found.proba.argmax()]))  # type: ignore[union-attr]
        return found

    def elsewhere(batch: Batch) -> Any:
        asked.append((started[-1] + len(asked) + 1) % count)
        proba = np.zeros((1, len(segments)), np.float32)
        proba[:, np.flatnonzero(segments == asked[-1])[0]] = 1
        return replace(plain(batch), proba=proba)

    plain, retrieved = learner.head.predict, learner.retrieval.predict
    monkeypatch.setattr(learner.retrieval, "predict", near)
    monkeypatch.setattr(learner.head, "predict", elsewhere)
    found = learner.predict(unlabelled(1))
    assert len(asked) == 5
    last = np.flatnonzero(segments == asked[-1])[0]
    assert found.value[0] == learner.classes_of_segments.labels[last]
    asked.clear()
    learner.config = learner.config.model_copy(update={"refine": 0})
    learner.predict(unlabelled(1))
    assert len(asked) == 1


def test_orthogonality_is_the_cross_entropy_of_all_products() -> None:
    learner = taught(128, mos(most=4))
    learner._learn(CASE.stream(16, seed=4))  # a third segment
    features = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    earlier = learner.classes_of_segments.segments < 2
    rows = np.concatenate([learner.prototypes.means[earlier], F.normalize(features).numpy()])
    products = torch.from_numpy(rows @ rows.T / 0.8)
    expected = F.cross_entropy(products, torch.arange(len(rows)))
    assert learner._overlap(features).item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_label_in_two_segments_is_two_classes() -> None:
    """Labels are exchanged in the second segment, and the texts of both differ by a word."""
    stream = CASE.stream(128)
    assert stream.y is not None
    texts = stream.x["text"].texts()  # type: ignore[index,union-attr]
    words = [f"{'one two' if i < 64 else 'six ten'} {text}" for i, text in enumerate(texts)]
    column = type(stream.x["text"]).of_text(words)  # type: ignore[index,union-attr]
    y = np.where(np.arange(128) < 64, stream.y, (stream.y + 1) % 3)
    stream = replace(stream, x={"text": column}, y=y)
    learner = mos(alignment="lda")
    for _ in range(2):  # the third segment sees the first texts again
        for batch in stream[:64].micro_batches(16) if _ else stream.micro_batches(16):
            learner._learn(batch)
    assert len(learner.classes_of_segments) == 9
    found = learner.predict(replace(stream, y=None))
    assert (found.value == y).mean() > 0.9
    np.testing.assert_allclose(found.proba.sum(1), 1, atol=1e-5)  # type: ignore[union-attr]


def test_beyond_the_most_the_oldest_after_the_first_are_joined() -> None:
    learner = taught(192, mos(most=3, alignment="lda", head="slda"))
    first, pair = learner.stack.of(0), [learner.stack.of(i) for i in (1, 2)]
    counts = learner.head.state()["statistics"]["counts"].copy()
    learner._learn(CASE.stream(8))
    assert learner.stack.count == 3
    assert digest(learner.stack.of(0)) == digest(first)
    expected = weighted(pair, [64, 64])
    for name, array in learner.stack.of(1).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-7)
    classes = learner.classes_of_segments
    assert classes.segments.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    after = learner.head.state()["statistics"]["counts"]
    assert after.sum() == counts.sum() + 8
    for code, (segment, label) in enumerate(zip(classes.segments, classes.labels, strict=True)):
        if segment == 1:
            y = CASE.stream(192).y
            assert y is not None
            assert after[code] == (y[64:192] == label).sum()


@pytest.mark.parametrize(
    ("alignment", "stop"), [("sgd", 48), ("sgd", 64), ("sgd", 72), ("lda", 200), ("none", 200)]
)
def test_resumes_exactly(alignment: str, stop: int) -> None:
    """Within a segment, where an adapter starts, and where two are joined."""
    settings = {"alignment": alignment, "merge": 0.1, "steps": 2, "most": 3}
    stream = CASE.stream(208)
    learner = mos(**settings)
    for batch in stream[:stop].micro_batches(16):
        learner._learn(batch)
    heir = mos(seed=2, **settings)
    heir.load(heir.migrate(copied(learner.state())))
    assert digest(heir.state()) == digest(learner.state())
    for batch in stream[stop:].micro_batches(8):
        learner._learn(batch)
        heir._learn(batch)
    assert digest(heir.state()) == digest(learner.state())


def test_no_more_directions_than_a_feature_has_numbers() -> None:
    learner = taught(16, mos(directions=10**9, alignment="sgd"))
    assert learner.head.state()["gaussians"]["factors"].shape == (3, 64, 64)


def test_an_adapter_is_kept_once() -> None:
    """The trained one is the last of the stack, also after a load."""
    learner = taught(160, mos())
    state = learner.state()
    assert "parts" not in state
    trained = modules.module_state(learner.parts)
    size = sum(array.nbytes for array in trained.values())
    assert learner.memory_bytes() > 3 * size
    heir = mos(seed=2)
    heir.load(copied(state))
    assert digest(modules.module_state(heir.parts)) == digest(trained)


def with_exchanged_labels(n: int, change: int, seed: int = 0) -> Batch:
    """Events whose labels mean something else from one on."""
    stream = CASE.stream(n, seed)
    assert stream.y is not None
    return replace(stream, y=np.where(np.arange(n) < change, stream.y, (stream.y + 1) % 3))


def test_a_new_adapter_where_errors_become_more() -> None:
    learner, counts = mos(every="drift", alignment="lda"), []
    for batch in with_exchanged_labels(160, 96).micro_batches(8):
        learner._learn(batch)
        counts.append(learner.stack.count)
    assert counts[11] == 1, "while errors fall there is one"
    assert 2 in counts[12:17], "within 40 events"
    assert counts[-1] == 2


@pytest.mark.parametrize("stop", [88, 104])
def test_a_drift_signal_resumes_exactly(stop: int) -> None:
    settings, stream = {"every": "drift", "alignment": "lda"}, with_exchanged_labels(144, 96)
    learner = mos(**settings)
    for batch in stream[:stop].micro_batches(8):
        learner._learn(batch)
    heir = mos(seed=2, **settings)
    heir.load(heir.migrate(copied(learner.state())))
    for batch in stream[stop:].micro_batches(8):
        learner._learn(batch)
        heir._learn(batch)
    assert learner.stack.count == 2
    assert digest(heir.state()) == digest(learner.state())


@pytest.mark.parametrize("check", list(checks_for(Mos)), ids=str)
def test_a_drift_signal_keeps_the_contract(check: Check) -> None:
    def make(schema: Schema, seed: int) -> Mos:
        settings = EXAMPLE | {"every": "drift", "alignment": "lda"}
        return Mos(MosConfig.model_validate(settings), schema, seed)

    check(make)


def test_served_without_what_only_training_needs() -> None:
    learner = taught(192, mos())
    served = learner.servable()
    assert not {"optimizer", "parts", "prototypes"} & served.keys()
    assert "gaussians" not in served["head"]
    assert max(np.size(leaf) for _, leaf in leaves(served)) <= 3 * 4 * 64
    heir = mos(seed=2)
    heir.load_servable(copied(served))
    np.testing.assert_array_equal(
        heir.predict(unlabelled(30)).proba, learner.predict(unlabelled(30)).proba
    )


def test_segments_of_the_stream() -> None:
    learner = mos(every="segment", most=4)
    assert learner.requires_segments
    assert not mos().requires_segments
    for segment in (3, 3, 7):
        part = CASE.stream(16)
        learner._learn(replace(part, segment=np.full(16, segment)))
    assert learner.stack.count == 2
    assert taught(96, mos(every=None)).stack.count == 1


def test_without_training_features_are_the_frozen_ones() -> None:
    learner = taught(160, mos(adapters=False))
    assert learner.gradient_steps == 0
    hidden, _ = learner._trunk(torch.from_numpy(learner.rows(unlabelled(8))))
    with torch.inference_mode():
        plain = hidden
        for i in learner._trunk.upper_blocks():
            plain = learner.backbone.block(i, plain)
        expected = learner.backbone.pool(plain)
        torch.testing.assert_close(learner.stack.features(hidden, 1), expected, atol=1e-6, rtol=0)


def test_memory_of_an_adapter_is_a_metric() -> None:
    learner = taught(160, mos())
    found = learner.metrics()
    assert found["adapters"] == 3
    assert found["adapter_bytes"] == 4 * (2 * 4 * 64 + 64 + 4)
    assert found["segment_classes"] == 9


def test_heads_whose_classes_cannot_be_joined_are_refused() -> None:
    with pytest.raises(ValidationError, match="head: classes of 'knn' cannot be joined"):
        mos(head="knn")


@pytest.mark.parametrize("head", ["prototype", {"kind": "fecam", "covariance": "diagonal"}])
def test_closed_forms_under_it(head: Any) -> None:
    learner, stream = mos(alignment="lda", head=head, most=3), CASE.stream(240)
    run = LearnerRun(learner).feed(stream)
    assert learner.stack.count == 3
    assert stream.y is not None
    assert (run.values()[-80:] == stream.y[-80:]).mean() > 0.8
