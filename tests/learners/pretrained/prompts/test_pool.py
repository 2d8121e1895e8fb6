"""The pool of prompts: choice, pull, and what a step moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from learners.base import LearnerError
from learners.pretrained.prompts.l2p import L2P
from learners.pretrained.prompts.pool import PoolConfig, PromptPool, _vote, entropy
from tests.learners.pretrained.prompts.problems import learner, moved_rows, queries_of, stream

KEYS = torch.tensor([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0], [0.0, 3.0]])


def pool(**settings: Any) -> PromptPool:
    """Return a pool whose keys are known: 1 and 3 point the same way."""
    made = PromptPool(PoolConfig(kind="l2p", pool=4, **settings), 2, (1, 2))
    made.keys.data.copy_(KEYS)
    return made


def test_the_nearest_keys_are_chosen_by_cosine() -> None:
    """Lengths do not count, and of equal keys the first is taken."""
    queries = torch.tensor([[1.0, 0.1], [0.1, 9.0], [-5.0, 0.0]])
    assert pool(top=2).nearest(queries).tolist() == [[0, 1], [1, 3], [2, 1]]


def test_choice_of_a_row_depends_on_no_other() -> None:
    made = PromptPool(PoolConfig(kind="l2p", pool=50, top=3), 24, (1,))
    queries = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    cosines = made._cosines(queries)
    for i in range(40):
        assert torch.equal(made._cosines(queries[i : i + 1])[0], cosines[i])


def test_a_vote_gives_all_rows_the_same_prompts() -> None:
    queries = torch.tensor([[1.0, 0.0], [3.0, 0.1], [0.0, 1.0]])
    assert pool(vote=True).choose(queries).tolist() == [[0], [0], [0]]
    assert pool().choose(queries).tolist() == [[0], [0], [1]]


def test_a_vote_with_too_few_prompts_has_no_duplicates() -> None:
    """All votes are for prompt 0. Those with the larger cosines fill up the three places."""
    queries = torch.tensor([[1.0, 0.2]]).expand(3, 2)
    votes = torch.zeros(3, 3, dtype=torch.int64)
    assert _vote(votes, pool()._cosines(queries)).tolist() == [[0, 1, 3]] * 3


def test_a_tied_vote_is_broken_by_cosine_then_by_index() -> None:
    """One vote each for 1 and 0: the mean cosine decides. 1 and 3 are equal: the index does."""
    queries = torch.tensor([[1.0, 0.9], [0.0, 1.0]])
    made = pool(vote=True)
    assert made.nearest(queries).tolist() == [[0], [1]]
    for order in ([0, 1], [1, 0]):
        assert made.choose(queries[order]).tolist() == [[1], [1]]


def test_predictions_hold_no_vote_and_no_penalty() -> None:
    made = pool(vote=True, frequency_penalty=True)
    made.count(torch.tensor([[0]] * 100))
    queries = torch.tensor([[1.0, 0.9], [0.0, 1.0], [0.0, 2.0]])
    assert made.nearest(queries).tolist() == [[0], [1], [1]]
    assert made.choose(queries).tolist() == [[1], [1], [1]]


def test_frequency_penalty_by_hand() -> None:
    """Prompt 0: (1 - .8) 6/10 = .12. Prompts 1 and 3: (1 - .6) 1/10 = .04."""
    made = pool(frequency_penalty=True)
    query = torch.tensor([[0.8, 0.6]])
    assert made.choose(query).tolist() == [[0]]
    made.count(torch.tensor([[0]] * 5))
    assert made.uses.tolist() == [5, 0, 0, 0]
    made.count(torch.tensor([[2]]))
    assert made.choose(query).tolist() == [[1]]


def test_pull_is_a_mean_over_the_chosen_keys_alone() -> None:
    made = pool(top=2, pull=0.5)
    queries = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    chosen = torch.tensor([[0, 1], [1, 0]])
    loss = made.pull(queries, chosen)
    assert loss is not None
    assert loss.item() == pytest.approx(0.5 * (0 + 1 + 0.2 + 0.4) / 4, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert made.keys.grad is not None
    # of prompt 1: -(q - (q . k) k) / (|k| * 4 terms) * 0.5, over both rows, with k = (0, 1)
    expected = [-0.5 / 4 / 0.5 * (1.0 + 0.6), 0.0]
    assert made.keys.grad[1].tolist() == pytest.approx(expected, abs=1e-6)
    assert not made.keys.grad[2:].any()
    assert made.prompts.grad is None


def test_a_step_moves_what_it_chose_and_nothing_else() -> None:
    """Adam has momentum of all prompts by then. Those that are chosen move at every step."""
    made, batch = learner(L2P, pool=6, pull=0.3), stream(L2P, 160)
    pool, still = made.parts.pool, 0
    for part in batch.micro_batches(4):
        chosen = set(pool.nearest(queries_of(made, part)).flatten().tolist())
        before = [pool.prompts.detach().clone(), pool.keys.detach().clone()]
        made._learn(part)
        assert moved_rows(before[0], pool.prompts) == chosen
        assert moved_rows(before[1], pool.keys) == chosen
        still += len(set(pool.uses.nonzero().flatten().tolist()) - chosen)
    assert still > 10  # with momentum, and not chosen


def test_gradients_reach_only_the_prompts_that_were_chosen() -> None:
    made, batch = learner(L2P, pool=6, pull=0.0), stream(L2P, 5)
    states = made._trunk(torch.from_numpy(made.rows(batch)))
    features, penalty, _ = made.parts.trained(*states)
    assert penalty is None
    features.square().sum().backward()
    gradient = made.parts.pool.prompts.grad
    chosen = set(made.parts.pool.nearest(queries_of(made, batch)).flatten().tolist())
    assert moved_rows(torch.zeros_like(gradient), gradient) == chosen
    assert not made.parts.pool.keys.grad.any()


def test_without_pull_keys_keep_their_bits() -> None:
    """Even under weight decay, which would shrink them."""
    adam = {"kind": "adam", "lr": 0.01, "weight_decay": 0.1}
    made = learner(L2P, pull=0.0, optimizer=adam)
    before = made.parts.pool.keys.detach().clone()
    for part in stream(L2P).micro_batches(8):
        made._learn(part)
    assert torch.equal(before, made.parts.pool.keys)
    assert len(moved_rows(before, made.parts.pool.prompts.flatten(1)[:, : before.shape[1]])) > 1


def test_uses_and_movement_are_metrics() -> None:
    made = learner(L2P, pool=4, top=2)
    assert made.metrics()["prompt_movement"] == made.metrics()["used_prompts"] == 0
    for part in stream(L2P, 30).micro_batches(10):
        made._learn(part)
    uses, found = made.parts.pool.uses, made.metrics()
    assert uses.sum() == 2 * 30
    shares = uses[uses > 0] / 60
    assert found["routing_entropy"] == pytest.approx(-(shares * shares.log()).sum() / math.log(4))
    assert found["used_prompts"] == (uses > 0).sum() / 4
    start = learner(L2P, pool=4, top=2).parts.pool.prompts
    distance = (made.parts.pool.prompts - start).flatten(1).norm(dim=1).mean()
    assert found["prompt_movement"] == pytest.approx(distance.item())


@pytest.mark.parametrize(("uses", "value"), [([0, 0], 0), ([7, 0], 0), ([5, 5], 1), ([3], 0)])
def test_entropy_is_a_share_of_the_largest(uses: list[int], value: float) -> None:
    assert entropy(torch.tensor(uses)) == pytest.approx(value)


def test_more_prompts_than_the_pool_has_are_refused() -> None:
    with pytest.raises(LearnerError, match=r"learner\.top: 5 of 4 prompts cannot be chosen"):
        learner(L2P, pool=4, top=5)
