"""A pool of prompts with keys, and the base of learners that choose prompts from one."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from learners.base import LearnerError
from learners.networks.optimizer import Moved
from learners.pretrained.backbones.base import Hidden
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.tuned.base import TunedConfig
from learners.pretrained.tuned.first_events import FirstEventsConfig, FirstEventsLearner
from learners.pretrained.tuned.parts import Trained, TunedParts

PROMPT_STD = 0.02
"""Standard deviation of prompts at the start: small, so that features start near the frozen ones.
The authors of L2P draw them uniformly from 0 to 0.01."""


class PoolConfig(FirstEventsConfig):
    """Settings of a learner with a pool of prompts.

    Attributes:
        pool: how many prompts it has.
        length: tokens of a prompt; or keys, and values, that it puts before those of a block.
        top: prompts for each event.
        pull: the factor alpha of the loss that pulls keys to the queries they are chosen for; 0:
            keys stay as drawn. They have no other gradient: Adam moves them alike for all others.
        vote: whether all events of a step are trained with the prompts that most of them choose.
        frequency_penalty: whether prompts that were used often are chosen less while training.
    """

    pool: PositiveInt = 10
    length: PositiveInt = 5
    top: PositiveInt = 1
    pull: NonNegativeFloat = 1.0
    vote: bool = False
    frequency_penalty: bool = False


class PoolSettings(Protocol):
    """The settings that a pool reads (``PoolConfig``)."""

    @property
    def pool(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def top(self) -> int: ...

    @property
    def pull(self) -> float: ...

    @property
    def vote(self) -> bool: ...

    @property
    def frequency_penalty(self) -> bool: ...


class PromptPool(nn.Module):
    """Prompts P_m with keys k_m (Wang et al. 2022, "Learning to Prompt for Continual Learning").

    An event with query q gets the N prompts whose keys have the largest cosines

        g(q, k_m) = q . k_m / (|q| |k_m|),

    the lower index first where they are equal. A loss pulls the keys of those, and no others, to
    the query:

        alpha * mean over rows and their N keys of (1 - g(q, k_m)).

    While training, two options change the choice. By *vote*, all rows get the N prompts that most
    of them have chosen; then those with the larger mean cosine, so that no prompt comes twice. The
    *frequency penalty* takes the N smallest of (1 - g) h_m, where h_m is the share of prompt m in
    the choices so far.

    Deviations from the authors' program: it sums over the N keys and takes the mean over rows. Its
    vote fills up with the lowest index, so that a prompt may come twice. It votes for predictions
    too, where here no other event changes what an event gets. The paper counts shares up to the
    task before; here they are of all choices so far plus one each.

    It may have several *sections* of ``pool`` prompts each. Then the n rows of a call are as many
    for each section, one section after another, and choose among the prompts of theirs.

    Args:
        config: settings.
        width: of queries and keys.
        shape: of one prompt.
        sections: how many; ``m = sections * pool`` prompts in all.

    Attributes:
        keys: (m, width), of about unit length at the start.
        prompts: (m, *shape).
        uses: (m,) int64, how often each was chosen while training: by steps and rows.
    """

    uses: Tensor

    def __init__(
        self, config: PoolSettings, width: int, shape: tuple[int, ...], sections: int = 1
    ) -> None:
        super().__init__()
        if config.top > config.pool:
            raise LearnerError(
                f"learner.top: {config.top} of {config.pool} prompts cannot be chosen: lower it, "
                "or raise learner.pool"
            )
        self._config, self._sections = config, sections
        count = sections * config.pool
        self.keys = nn.Parameter(torch.randn(count, width) / math.sqrt(width))
        self.prompts = nn.Parameter(PROMPT_STD * torch.randn(count, *shape))
        self.register_buffer("uses", torch.zeros(count, dtype=torch.int64))

    def nearest(self, queries: Tensor, among: Tensor | None = None) -> Tensor:
        """Return the indices (n, N) of the prompts that queries (n, width) choose. Pure.

        Args:
            queries: as the backbone gives them.
            among: (pool,) bool, the prompts to choose from; None: all. Only with one section.
        """
        distance = 1 - self._cosines(queries)
        if among is not None:
            distance = distance.masked_fill(~among, torch.inf)
        return self._of_sections(_smallest(distance, self._config.top))

    def choose(self, queries: Tensor) -> Tensor:
        """Return the indices (n, N) of prompts for training with queries (n, width). Pure."""
        with torch.no_grad():
            cosines = self._cosines(queries)
            distance = 1 - cosines
            if self._config.frequency_penalty:
                uses = self.uses.view(self._sections, -1) + 1
                shares = uses / uses.sum(1, keepdim=True)
                rows = len(queries) // self._sections
                distance = distance * shares.repeat_interleave(rows, 0)
            chosen = _smallest(distance, self._config.top)
            if self._config.vote:
                parts = zip(
                    chosen.chunk(self._sections), cosines.chunk(self._sections), strict=True
                )
                chosen = torch.cat([_vote(*part) for part in parts])
            return self._of_sections(chosen)

    def pull(self, queries: Tensor, chosen: Tensor) -> Tensor | None:
        """Return the loss of the keys (n, N) chosen for queries; None where alpha is 0."""
        if not self._config.pull:
            return None
        cosines = F.cosine_similarity(queries[:, None], self.keys[chosen], dim=-1)
        return self._config.pull * (1 - cosines).mean()

    def moved(self, chosen: Tensor) -> Moved:
        """Return what a step with these prompts moves: them, and their keys unless alpha is 0."""
        used = torch.zeros_like(self.uses, dtype=torch.bool)
        used[chosen] = True
        return {
            self.prompts: used,
            self.keys: used if self._config.pull else torch.zeros_like(used),
        }

    def count(self, chosen: Tensor) -> None:
        """Count the use of prompts (n, N)."""
        self.uses += torch.bincount(chosen.flatten(), minlength=len(self.uses))

    def metrics(self) -> dict[str, float]:
        """Return the entropy of the uses, and the share of prompts that were used."""
        return {
            "routing_entropy": entropy(self.uses),
            "used_prompts": float((self.uses > 0).double().mean()),
        }

    def _cosines(self, queries: Tensor) -> Tensor:
        """Return g (n, pool). Row by row, so that no bit depends on other rows."""
        queries, keys = F.normalize(queries, dim=1), F.normalize(self.keys, dim=1)
        if self._sections == 1:
            return (queries[:, None] * keys).sum(-1)
        sections, width = self._sections, queries.shape[1]
        pairs = queries.view(sections, -1, 1, width) * keys.view(sections, 1, -1, width)
        return pairs.sum(-1).flatten(0, 1)

    def _of_sections(self, chosen: Tensor) -> Tensor:
        """Return the indices (n, N) of prompts by those within sections."""
        if self._sections == 1:
            return chosen
        first = torch.arange(0, len(self.keys), self._config.pool, device=chosen.device)
        return chosen + first.repeat_interleave(len(chosen) // self._sections)[:, None]


def entropy(uses: Tensor) -> float:
    """Return the entropy of shares of uses (m,), from 0, one is used, to 1, all are alike."""
    uses = uses.double()
    shares = uses / uses.sum().clamp(min=1e-12)
    nats = -torch.special.xlogy(shares, shares).sum()
    return float(nats / math.log(max(len(uses), 2)))


def _smallest(distance: Tensor, count: int) -> Tensor:
    """Return the columns (n, count) with the smallest values, the lower index first of equals."""
    return distance.argsort(dim=1, stable=True)[:, :count]


def _vote(chosen: Tensor, cosines: Tensor) -> Tensor:
    """Return the same N indices for all rows (n, N): those chosen most often, then those with the
    largest mean cosine, then the lowest."""
    votes = torch.bincount(chosen.flatten(), minlength=cosines.shape[1])
    order = cosines.mean(0).argsort(descending=True, stable=True)
    order = order[votes[order].argsort(descending=True, stable=True)]
    return order[: chosen.shape[1]].expand_as(chosen)


class PooledParts(TunedParts):
    """Parts with a pool of prompts. A subclass says how prompts act (``inject``).

    Args:
        trunk: the blocks below. It gives queries: what the backbone gives without prompts.
        pool: of the prompts.
    """

    def __init__(self, trunk: Trunk, pool: PromptPool) -> None:
        super().__init__(trunk)
        self.pool = pool
        self._start = pool.prompts.detach().clone()

    @abstractmethod
    def inject(self, hidden: Hidden, prompts: Tensor) -> Tensor:
        """Return features (n, width) of rows with their prompts (n, N, *shape). Pure."""

    def features(self, hidden: Hidden, queries: Tensor | None) -> Tensor:
        assert queries is not None
        return self.inject(hidden, self.pool.prompts[self.nearest(queries)])

    def trained(self, hidden: Hidden, queries: Tensor | None) -> Trained:
        """Return features with the prompts for training, and the pull. Count their use."""
        assert queries is not None
        chosen = self.choose(queries)
        self.pool.count(chosen)
        features = self.inject(hidden, self.pool.prompts[chosen])
        return Trained(features, self.pool.pull(queries, chosen), self.pool.moved(chosen))

    def nearest(self, queries: Tensor) -> Tensor:
        """Return the indices (n, N) of the prompts to predict rows with. Pure."""
        return self.pool.nearest(queries)

    def choose(self, queries: Tensor) -> Tensor:
        """Return the indices (n, N) of the prompts to train rows with. Pure."""
        return self.pool.choose(queries)

    def metrics(self) -> dict[str, float]:
        """Return those of the pool, and how far a prompt has moved since the start, in the mean."""
        return self.pool.metrics() | {"prompt_movement": movement(self.pool.prompts, self._start)}


def movement(prompts: Tensor, start: Tensor) -> float:
    """Return the mean Euclidean distance between prompts (m, ...) and what they were."""
    return float((prompts.detach() - start.to(prompts.device)).flatten(1).norm(dim=1).mean())


class PoolLearner(FirstEventsLearner):
    """Choose prompts for each event by its query, and train those that were chosen.

    The query of an event is what the frozen backbone gives without any prompt. A step moves the
    prompts of its events and their keys. Others keep their bits.
    """

    Config: ClassVar[type[TunedConfig]] = PoolConfig
    queried: ClassVar[bool] = True

    def new_pool(self, shape: tuple[int, ...]) -> PromptPool:
        """Return a new pool of prompts of this shape."""
        config: Any = self.config
        return PromptPool(config, self.backbone.width, shape)
