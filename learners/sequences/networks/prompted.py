"""Attentive neural Hawkes process with pools of continuous-time prompts."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from learners.networks.optimizer import Moved
from learners.pretrained.prompts.pool import PoolSettings, PromptPool
from learners.sequences.networks.attentive import Attentive, AttentiveConfig, apply
from learners.sequences.networks.base import HistoryTensors, Next, time_features


class PromptSettings(PoolSettings, Protocol):
    """What a network with prompts reads of the settings of its learner."""

    @property
    def estimate(self) -> Literal["gaps", "learned"]: ...


class Prompted(Attentive):
    """Prompts before the keys and values of each layer (Xue et al. 2023, "Prompt-augmented Temporal
    Point Process for Streaming Event Sequence").

    Each layer of each head has a pool for its keys and one for its values. With the query

        phi = mean over the events of the history of [h_i; z_i]

    of the layer, the ``top`` prompts whose keys are nearest by cosine are chosen
    (``PromptPool``). A prompt has ``length`` vectors [s; z(t)], whose *structural* part s is
    learned; the *temporal* part is the embedding of the estimated time t of the next event. They
    pass the projection of the layer to keys, or values, and are attended to before the events.

    The estimate of t is ``gaps``, the first gap of the history and its mean gap together, as in the
    authors' program; one usual wait, 1 unit, where a history has no gap. Or it is ``learned``:
    linear in phi of the first layer, and trained to be near t / (1 + t) of what came.

    Deviations: padding is not part of phi, nor of the mean gap. Phi has no gradient from the pull:
    it moves keys alone. The temporal part is of a gap and an age alike. By default predictions and
    learning choose for each history by itself; with ``vote`` a step is trained with the prompts
    that most of its histories choose.

    Args:
        config: settings of the network.
        prompts: settings of the pools.
        types: how many there are.
        seed: of the rows of types.

    Attributes:
        pools: of each layer: a section for the keys of each head, then for the values of each.
    """

    def __init__(
        self, config: AttentiveConfig, prompts: PromptSettings, types: int, seed: int
    ) -> None:
        super().__init__(config, types, seed)
        self._learned = prompts.estimate == "learned"
        width, shape = config.hidden + config.times, (prompts.length, config.hidden)
        self.pools = nn.ModuleList(
            PromptPool(prompts, width, shape, sections=2 * config.heads)
            for _ in range(config.layers)
        )
        self.estimate = nn.Linear(config.heads * width, 1)

    def moved(self, chosen: tuple[Tensor, ...], refresh: bool) -> Moved:
        """Return what a step moves of the pools: what was chosen if it refreshes, or nothing.

        Args:
            chosen: (sections * n, top) for each pool.
            refresh: whether the step moves prompts and keys.
        """
        moved: dict[Tensor, Tensor] = {}
        for pool, indices in zip(self.pools, chosen, strict=True):
            assert isinstance(pool, PromptPool)
            for parameter, rows in pool.moved(indices).items():
                moved[parameter] = rows if refresh else torch.zeros_like(rows)
        return moved

    def count_uses(self, chosen: tuple[Tensor, ...]) -> None:
        """Count the use of prompts (sections * n, top) for each pool."""
        for pool, indices in zip(self.pools, chosen, strict=True):
            assert isinstance(pool, PromptPool)
            pool.count(indices)

    def notes(self, histories: HistoryTensors) -> Any:
        return _Notes(histories)

    def before(
        self, layer: int, inputs: Tensor, present: Tensor, notes: Any
    ) -> tuple[Tensor, Tensor]:
        heads, hidden = self.config.heads, self.config.hidden
        events = present.sum(1).clamp(min=1)
        phi = (inputs * present[:, :, None]).sum(2) / events[:, None]  # (heads, n, width)
        if layer == 0:
            notes.time = self._next_time(phi, notes.histories)
        z = time_features(notes.time.detach(), self.config.times // 2).repeat(1, 2)
        pool, weight = self.pools[layer], self.events[layer][..., : 2 * hidden]
        assert isinstance(pool, PromptPool)
        # Both parts of a prompt pass the projection apart: the structural one before it is chosen.
        vectors = pool.prompts.view(2, heads, -1, hidden)
        for_keys, for_values = torch.split(weight[:, :hidden], hidden, 2)
        projected = torch.cat([vectors[0] @ for_keys, vectors[1] @ for_values])
        rows = projected.view(len(pool.prompts), -1)[self._choose(pool, phi, notes)]
        structural = rows.view(2, heads, len(present), -1, hidden)
        temporal = apply(weight[:, hidden:], z.expand(heads, 1, *z.shape))
        temporal = temporal.view(heads, len(present), 1, 2 * hidden)
        for_keys, for_values = torch.split(temporal, hidden, 3)
        zero, _ = super().before(layer, inputs, present, notes)
        keys = torch.cat([zero, structural[0] + for_keys], 2)
        return keys, torch.cat([zero, structural[1] + for_values], 2)

    def _choose(self, pool: PromptPool, phi: Tensor, notes: _Notes) -> Tensor:
        """Return the indices (sections * n, top) of prompts for queries phi (heads, n, width)."""
        queries = phi.detach().flatten(0, 1).repeat(2, 1)
        if not self.training:
            return pool.nearest(queries)
        chosen = pool.choose(queries)
        notes.add(chosen, pool.pull(queries, chosen))
        return chosen

    def _next_time(self, phi: Tensor, histories: HistoryTensors) -> Tensor:
        """Return (n,) the estimated units until the next event."""
        if self._learned:
            share = torch.sigmoid(self.estimate(phi.detach().transpose(0, 1).flatten(1))[:, 0])
            return share / (1 - share).clamp(min=1e-3)
        between = histories.present[:, 1:]
        if not between.shape[1]:
            return histories.gaps.new_ones(len(between))
        gaps = histories.gaps[:, 1:] * between
        mean = gaps.sum(1) / between.sum(1).clamp(min=1)
        return torch.where(between[:, 0], gaps[:, 0] + mean, 1.0)

    def estimate_error(self, time: Tensor, event: Next) -> Tensor:
        """Return the mean squared error of the estimated times (n,) of events that came, on the
        scale t / (1 + t); 0 where nothing came."""
        elapsed, came = event.elapsed, event.types >= 0
        error = time / (1 + time) - elapsed / (1 + elapsed)
        return torch.where(came, error.square(), 0.0).mean()


class _Notes:
    """What was chosen for histories."""

    def __init__(self, histories: HistoryTensors) -> None:
        self.histories = histories
        self.time: Tensor | None = None
        self._pull: Tensor | None = None
        self._chosen: list[Tensor] = []

    def add(self, chosen: Tensor, pull: Tensor | None) -> None:
        self._chosen.append(chosen)
        if pull is not None:
            self._pull = pull if self._pull is None else self._pull + pull

    def results(self) -> tuple[Any, ...]:
        return self._pull, tuple(self._chosen), self.time
