"""Pools of continuous-time prompts: the refresh schedule, what is pulled, the estimated time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from learners.checks.case import Case, LearnerRun
from learners.pretrained.prompts.pool import PromptPool
from learners.sequences.history import history_of
from learners.sequences.networks.base import HistoryTensors, time_features
from learners.sequences.networks.prompted import Prompted
from learners.sequences.prompt_tpp import PromptTpp
from streams.core.batch import Batch


def _case(**settings: Any) -> Case:
    config = _config(steps=1, **settings)
    return Case(PromptTpp, "sequences", lambda schema, seed: PromptTpp(config, schema, seed))


def _config(**settings: Any) -> Any:
    return PromptTpp.Config.model_validate({**PromptTpp.example("sequences"), **settings})


def _pools(learner: PromptTpp) -> list[Tensor]:
    return [p.detach().clone() for pool in learner.net.pools for p in pool.parameters()]


def _trajectory(case: Case, batches: int = 9) -> tuple[PromptTpp, list[list[Tensor]], list[Tensor]]:
    """Return a learner, its pools and its other weights after each micro-batch that it learned."""
    learner = case.new()
    assert isinstance(learner, PromptTpp)
    run, pools, others = LearnerRun(learner), [], []
    for batch in case.stream(16 * (batches + 1)).micro_batches(16):
        version = learner.version
        run.step(batch)
        if learner.version > version:
            pools.append(_pools(learner))
            others.append(learner.net.events[0].detach().clone())
    return learner, pools, others


@pytest.mark.parametrize("every", [1, 2, 3])
def test_prompts_move_on_exactly_the_refresh_schedule(every: int) -> None:
    """The network moves in every step, prompts and keys in steps 0, C, 2 C, ... and in no other."""
    _, pools, others = _trajectory(_case(refresh_every=every))
    for step in range(1, len(pools)):
        moved = [not torch.equal(a, b) for a, b in zip(pools[step - 1], pools[step], strict=True)]
        assert moved == [step % every == 0] * len(moved), f"step {step}"
        assert not torch.equal(others[step - 1], others[step])


def test_keys_of_chosen_prompts_are_pulled_and_no_others() -> None:
    learner, pools, _ = _trajectory(_case(refresh_every=1, pool=12, top=1), batches=2)
    start = _pools(_case(refresh_every=1, pool=12, top=1).new())
    for number, pool in enumerate(learner.net.pools):
        assert isinstance(pool, PromptPool)
        used = pool.uses > 0
        assert 0 < used.sum() < len(used)
        for first, last in zip(
            start[2 * number :], pools[-1][2 * number : 2 * number + 2], strict=False
        ):
            moved = (first != last).flatten(1).any(1)
            assert torch.equal(moved, used)


def test_without_pull_keys_stay_and_prompts_move() -> None:
    case = _case(refresh_every=1, pull=0.0)
    _, pools, _ = _trajectory(case)
    start = _pools(case.new())
    for place, (first, last) in enumerate(zip(start, pools[-1], strict=True)):
        assert torch.equal(first, last) == (place % 2 == 0)  # keys come before prompts


def test_pull_moves_keys_towards_the_queries_that_choose_them() -> None:
    cosines = []
    for pull in (0.0, 0.1):
        case = _case(refresh_every=1, pull=pull, optimizer={"lr": 0.02})
        learner, _, _ = _trajectory(case, batches=20)
        net = learner.net.train()
        pool = net.pools[0]
        assert isinstance(pool, PromptPool)
        histories = _histories(learner, case.stream(64))
        (chosen, _), times = net.encode(histories).chosen, net.config.times // 2
        z = [time_features(units, times) for units in (histories.ages, histories.gaps)]
        inputs = torch.cat([torch.tanh(net.embedding[histories.types]), *z], -1)
        present = histories.present[..., None]
        phi = ((inputs * present).sum(1) / present.sum(1)).repeat(4, 1)
        chosen_keys = pool.keys[chosen]
        cosine = torch.cosine_similarity(phi[:, None], chosen_keys, dim=-1)
        cosines.append(cosine.mean().item())
    assert cosines[1] > cosines[0] + 0.1


def _histories(learner: PromptTpp, events: Batch) -> HistoryTensors:
    history = history_of(events)
    return learner._histories(history.types, history.gaps)


def test_prediction_leaves_pools_and_uses() -> None:
    learner, _, _ = _trajectory(_case(vote=True, frequency_penalty=True))
    before = {name: value.clone() for name, value in learner.net.state_dict().items()}
    learner.predict(_case().stream(40))
    after = learner.net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(int(pool.uses.sum()) > 0 for pool in learner.net.pools)


def test_a_vote_gives_all_histories_the_same_prompts() -> None:
    for vote in (False, True):
        learner, _, _ = _trajectory(_case(vote=vote, pool=8, top=2))
        stream = _case().stream(64)
        history = _histories(learner, stream)
        learner.net.train()
        chosen = learner.net.encode(history).chosen
        for indices in chosen:
            sections = indices.view(4, 64, 2)  # keys and values of two heads
            assert (sections == sections[:, :1]).all().item() == vote
            assert torch.equal(sections // 8, torch.arange(4)[:, None, None].expand(4, 64, 2))


def test_the_time_of_prompts_is_that_of_the_gaps() -> None:
    """The first gap and the mean gap, without padding; a usual wait where there is no gap."""
    net = Prompted(_config().model, _config(), 2, 0)
    gaps = torch.tensor([[0.0, 2.0, 1.0, 9.0], [0.0, 9.0, 9.0, 9.0], [0.5, 1.0, 2.0, 3.0]])
    histories = HistoryTensors(
        torch.ones(3, 4, dtype=torch.int64), gaps, gaps, torch.tensor([3, 1, 4])
    )
    time = net.encode(histories).next_time
    assert time is not None
    assert time.tolist() == pytest.approx([2 + 1.5, 1.0, 1 + 2.0])


def test_a_learned_time_comes_near_what_came() -> None:
    case = _case(estimate="learned", optimizer={"lr": 0.02})
    learner = case.new()
    assert isinstance(learner, PromptTpp)
    start = learner.net.estimate.weight.detach().clone()
    LearnerRun(learner).feed(case.stream(480))
    assert not torch.equal(start, learner.net.estimate.weight)
    stream = case.stream(64, seed=3)
    with torch.inference_mode():
        history = _histories(learner, stream)
        time = learner.net.eval().encode(history).next_time
    assert time is not None
    share = time / (1 + time)
    assert 0.3 < float(share.mean()) < 0.6  # of exponential waits with mean 1 it is 0.40


def test_prompts_are_attended_to() -> None:
    """Keys and values are the projection of structural and temporal part, computed by hand."""
    config = _config(pool=3, top=1, length=2)
    torch.manual_seed(0)
    net = Prompted(config.model, config, 2, 0).eval()
    gaps = torch.tensor([[0.0, 0.5]])
    histories = HistoryTensors(torch.tensor([[1, 2]]), gaps, gaps.flip(1), torch.tensor([2]))
    encoded = net.encode(histories)
    assert encoded.keys[0].shape == (2, 1, 1 + 2 + 2, 8)
    pool, half = net.pools[0], 4
    assert isinstance(pool, PromptPool)
    z = torch.cat([time_features(histories.ages, half), time_features(gaps, half)], -1)
    h = torch.tanh(net.embedding[histories.types])
    phi = torch.cat([h, z], -1).mean(1)
    time = time_features(torch.tensor([1.0]), half).repeat(1, 2)  # 0.5 + 0.5 units
    for head in range(2):
        keys = pool.keys[3 * head : 3 * head + 3]
        best = 3 * head + torch.cosine_similarity(phi, keys).argmax()
        vectors = torch.cat([pool.prompts[best], time.expand(2, -1)], 1)
        weight = net.events[0][head, :, :8]
        expected = vectors @ weight[:-1] + weight[-1]
        assert torch.allclose(encoded.keys[0][head, 0, 1:3], expected, atol=1e-6)
